"""A permutohedral lattice that is built once and filters many times."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ..._checks import check_same_device
from ...backends import Backend, BackendUnavailable, forced_backend
from ...dtypes import compute_dtype
from . import device_lattice, native, reference
from .image_features import image_features

NORMALIZATIONS = ("none", "before", "after", "symmetric")


class Lattice:
    """The lattice of permutohedral_filter for one set of features.

        Lattice(features).filter(values) == permutohedral_filter(values, features)

    Memory: 8 * (D + 1) bytes per pixel and vertex (D = 5: 48), and 4 to 12 per pixel for the norm
    and what is made of it; on a GPU 20 * (D + 1) per pixel. Features are constants here; for their
    gradient call permutohedral_filter.

    Args:
        features: [N, D, P], or [D, P] for one lattice that serves every image; D of at least 1; any
            floating-point dtype. float64 makes a float64 lattice, everything else a float32 one.

    Raises:
        ValueError: wrong shape; features that are not finite or too large.
        TypeError: dtype.
    """

    def __init__(self, features: torch.Tensor) -> None:
        from .op import check_features

        features = features.detach()
        features = features.unsqueeze(0) if features.dim() == 2 else features
        check_features(features)
        if _is_native(features):
            self._take(features, native.build(features), [])
        else:
            images = features.to(compute_dtype(features))
            self._take(features, None, [reference.build(image) for image in images])

    @classmethod
    def of_image(cls, image: torch.Tensor, widths: torch.Tensor) -> Lattice:
        """The lattice of an image's positions and colors, on the CPU.

        Lattice(image_features(image, widths)), natively without the features in memory.

        Args:
            image: uint8 [H, W, 3], or [H, W, 0] for the positions alone.
            widths: float32 [2 + C], of columns, rows and channels.

        Raises:
            ValueError: wrong shapes; features that are not finite or too large.
            TypeError: dtypes.
        """
        if image.dim() != 3 or image.shape[2] not in (0, 3) or 0 in image.shape[:2]:
            raise ValueError(f"image has shape {tuple(image.shape)}, expected (H, W, 3 or 0)")
        if tuple(widths.shape) != (2 + image.shape[2],):
            raise ValueError(
                f"widths has shape {tuple(widths.shape)}, expected ({2 + image.shape[2]},)"
            )
        if image.dtype is not torch.uint8 or widths.dtype is not torch.float32:
            raise TypeError(
                f"image has dtype {image.dtype}, widths {widths.dtype}, expected torch.uint8 and "
                "torch.float32"
            )
        image, widths = image.cpu().contiguous(), widths.detach().cpu()
        like = torch.empty(0, dtype=torch.float32, device="cpu")
        if _native.on_cuda(like) or not _is_native(like):
            return cls(image_features(image, widths))
        handles = native.build_of_image(image, widths)
        if isinstance(handles, int):
            raise reference.bad_features(image_features(image, widths), handles)
        lattice = cls.__new__(cls)
        pixels = image.shape[0] * image.shape[1]
        lattice._take(like.new_empty(1).expand(1, len(widths), pixels), handles, [])
        return lattice

    def _take(
        self,
        features: torch.Tensor,
        handles: native.Handles | None,
        tables: list[reference.Tables],
    ) -> None:
        self.batch, self.num_features, self.num_pixels = features.shape
        self.device, self.dtype = features.device, compute_dtype(features)
        self.handles, self._tables = handles, tables
        self._norm: torch.Tensor | None = None
        self._factors: dict[bool, torch.Tensor] = {}  # by whether for both sides

    @property
    def num_vertices(self) -> list[int]:
        """How many vertices the lattice of each image has."""
        if self.handles is not None:
            return native.num_vertices(self.handles)
        return [tables.neighbours.shape[1] for tables in self._tables]

    def device_tensors(self) -> list[torch.Tensor]:
        """The tensors that hold the lattice, where it is on a GPU."""
        if self.device.type != "cuda":
            return []
        owners = [*(self.handles or ()), *self._tables]
        fields = [f for o in owners for f in (o if isinstance(o, tuple) else vars(o).values())]
        fields += [self._norm, *self._factors.values()]
        return [x for x in fields if isinstance(x, torch.Tensor)]

    def tables(self, image: int = 0) -> reference.Tables:
        """Copies of the lattice's rows, weights and neighbours, for inspection."""
        if self.handles is None:
            return self._tables[image]
        rows, weights, neighbours = native.tables(self.handles, image)
        return reference.Tables(rows.long(), weights, neighbours.long())

    def filter(self, values: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """Filters values [N, L, P]; differentiable in them, any number of times.

        Args:
            values: float32, bfloat16 or float16 (computed in float32); float64 needs a lattice of
                float64 features. A lattice of one image filters a batch of any size.
            transpose: applies the transposed operator.

        Returns:
            [N, L, P] in the dtype of values.

        Raises:
            ValueError: wrong shape or device.
            TypeError: dtype.
        """
        from .op import check_values

        check_values(values)
        check_same_device("values", values, "the lattice", torch.empty(0, device=self.device))
        if values.shape[2] != self.num_pixels:
            raise ValueError(f"values has {values.shape[2]} pixels, the lattice {self.num_pixels}")
        if self.batch not in (1, values.shape[0]):
            raise ValueError(
                f"values has batch size {values.shape[0]}, the lattice was built for {self.batch}"
            )
        if compute_dtype(values) is not self.dtype:
            raise TypeError(
                f"values has dtype {values.dtype}, the lattice computes in {self.dtype}: build it "
                "of features of the same precision"
            )
        return _Filter.apply(values, self, transpose)

    def norm(self) -> torch.Tensor:
        """The filter of ones [N, P]: what normalisation divides by. Computed once."""
        if self._norm is None:
            norm = self._power_of_norm(1.0)
            if device_lattice.is_capturing(norm):
                return norm  # the graph's own: nothing is in it before a replay
            self._norm = norm
        return self._norm

    def scales(self, normalization: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What a normalised filter multiplies its input and its output with, each [N, P] or None.

        Args:
            normalization: "none"; "before" and "after": 1 / norm of the input or of the output;
                "symmetric": 1 / sqrt(norm) of both.

        Raises:
            ValueError: another normalization.
        """
        if normalization not in NORMALIZATIONS:
            allowed = ", ".join(map(repr, NORMALIZATIONS))
            raise ValueError(f"normalization is {normalization!r}, allowed are {allowed}")
        if normalization == "none":
            return None, None
        symmetric = normalization == "symmetric"
        factors = self._factors.get(symmetric)
        if factors is None:
            with torch.inference_mode(False), torch.no_grad():  # they outlive such a block
                factors = self._power_of_norm(-0.5 if symmetric else -1.0)
            if factors.device.type == "cpu":
                self._factors[symmetric] = factors
        if symmetric:
            return factors, factors
        return (factors, None) if normalization == "before" else (None, factors)

    def _power_of_norm(self, power: float) -> torch.Tensor:
        """The norm [N, P] itself (1), or of norm + 1e-20 the reciprocal (-1) or its root (-0.5)."""
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        if self.handles is not None and self.batch > 0 and not _native.on_cuda(like):
            return native.norm_factors(self.handles, like, power)
        if power != 1.0:
            norm = self.norm()
            factors = torch.add(norm, 1e-20, out=_native.new_scratch(norm, *norm.shape))
            return (factors.sqrt_() if power == -0.5 else factors).reciprocal_()
        ones = _native.new_scratch(like, self.batch, 1, self.num_pixels).fill_(1)
        return self._filter(ones, False).squeeze(1)

    def _filter(self, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        if values.shape[0] == 0:
            return torch.zeros_like(values)
        if self.handles is not None:
            return native.filter_with(self.handles, values, transpose)
        tables = self._tables * (values.shape[0] if self.batch == 1 else 1)
        pairs = zip(values.to(self.dtype), tables, strict=True)
        return torch.stack([reference.filter_one(v, t, transpose) for v, t in pairs]).to(
            values.dtype
        )


def _is_native(features: torch.Tensor) -> bool:
    """Whether a lattice of these features is the native core's, as far as there is a choice."""
    reason = native.unsupported_reason("build", features=features)
    forced = forced_backend()
    if forced is Backend.NATIVE and reason is not None:
        raise BackendUnavailable(f"Lattice cannot be built natively: {reason}")
    return reason is None and forced is not Backend.REFERENCE


class _Filter(torch.autograd.Function):
    """Linear: its derivative is the transposed filter of the same lattice."""

    @staticmethod
    def forward(values: torch.Tensor, lattice: Lattice, transpose: bool) -> torch.Tensor:
        return lattice._filter(values, transpose)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, ctx.lattice, ctx.transpose = inputs

    @staticmethod
    def jvp(ctx: Any, moved: torch.Tensor, *_: Any) -> torch.Tensor:
        return _Filter.apply(moved, ctx.lattice, ctx.transpose)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, values: torch.Tensor, lattice: Lattice, transpose: bool
    ) -> tuple[torch.Tensor, int]:
        parts = values.unbind(in_dims[0])
        return torch.stack([_Filter.apply(x, lattice, transpose) for x in parts]), 0

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        return _Filter.apply(grads[0], ctx.lattice, not ctx.transpose), None, None
