"""A dense CRF as a layer: batched, trainable, on top of a network's logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from ..dtypes import compute_dtype, label_dtype
from ..ops.gaussian_filter import gaussian_filter
from ..ops.permutohedral_filter import Lattice, permutohedral_filter
from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.window_filter import window_filter
from .checks import EXCLUDED, check_count, check_finite, check_scores, check_tensor
from .features import axis_features
from .filters import Apply, normalized
from .fixed_order import between, log_softmax, softmax
from .kernels import BilateralKernel, FeatureKernel, GaussianKernel, Guide, PairwiseKernel
from .mean_field import MAX_KERNELS, Kernel, mean_field, mean_field_labels
from .presets import preset
from .spatial import position_lattice

Method = Literal["lattice", "exact", "window"]
METHODS = ("lattice", "exact", "window")
MeanField = Callable[[torch.Tensor, Sequence[Kernel], int], torch.Tensor]
Term = tuple[Apply, Apply]
_LEAST_PROBABILITY = 1.2e-38  # so that logarithms stay finite


class DenseCRF(nn.Module):
    """Mean-field inference in a fully connected CRF, as a differentiable layer.

    With unary energies U (or logits, -U) and kernels m, every step is

        Q = softmax(-U - sum_m weight_m * mu_m(F_m Q)),   Q = softmax(-U) at first

    where F_m is a normalised Gaussian filter over the kernel's features and mu_m its label
    compatibility (see PairwiseKernel). A pixel's message to itself is included, as in pydensecrf.
    Gradients go to the logits, to weights and compatibilities and, once `log_scales` requires
    them, to the widths (CRF-as-RNN).

    Args:
        classes: number of labels L, at least 1.
        kernels: the pairwise terms, in any number; by default a GaussianKernel and a
            BilateralKernel with the settings of pydensecrf's example.
        iterations: mean-field steps, at least 0.
        method: how the filters are computed. "lattice": the permutohedral lattice, pydensecrf's
            approximation, in time linear in the pixels. "exact": the sum over all pairs of pixels,
            in time quadratic in them (the smoothness kernel excepted, which is separable):
            for small images. "window": exact, but cut off at `radius` rows and columns.
        radius: of the window, in pixels.
        align_corners: how logits of lower resolution are upsampled to the images' size.

    Raises:
        ValueError: classes, iterations, radius or method out of range; a compatibility that is not
            for `classes` labels.
        TypeError: classes, iterations or radius that are no integers; kernels of another type.
    """

    def __init__(
        self,
        classes: int,
        kernels: Sequence[PairwiseKernel] | None = None,
        *,
        iterations: int = 5,
        method: Method = "lattice",
        radius: int = 5,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.classes = check_count("classes", classes, 1)
        self.iterations = check_count("iterations", iterations, 0)
        self.radius = check_count("radius", radius, 0)
        if method not in METHODS:
            raise ValueError(f"method is {method!r}, allowed are {', '.join(map(repr, METHODS))}")
        if kernels is None:
            kernels = (GaussianKernel(), BilateralKernel())
        elif isinstance(kernels, PairwiseKernel):
            raise TypeError(
                f"kernels is a {type(kernels).__name__}, expected a sequence of kernels"
            )
        for i, kernel in enumerate(kernels):
            if not isinstance(kernel, PairwiseKernel):
                raise TypeError(f"kernels[{i}] is a {type(kernel).__name__}, expected a kernel")
            mu = kernel.compatibility
            if mu is not None and mu.shape[0] != classes:
                raise ValueError(
                    f"compatibility has shape {tuple(mu.shape)}, expected {classes} labels"
                )
        self.kernels = nn.ModuleList(kernels)
        self.method: Method = method
        self.align_corners = align_corners

    @classmethod
    def preset(cls, name: str, classes: int, **options: object) -> DenseCRF:
        """A CRF with known settings: "pydensecrf", "deeplab" or "boundary".

        Args:
            name: see fastseg.crf.PRESETS for the numbers and their source.
            classes: number of labels.
            options: further arguments of the constructor; they win over the preset's.
        """
        p = preset(name)
        kernels = (
            GaussianKernel(p.width, p.weight),
            BilateralKernel(p.bilateral_width, p.color_width, p.bilateral_weight),
        )
        arguments: dict[str, object] = {"kernels": kernels, "iterations": p.iterations, **options}
        return cls(classes, **arguments)  # type: ignore[arg-type]

    def forward(
        self,
        logits: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        *,
        unary: torch.Tensor | None = None,
        features: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Computes refined logits: the logarithms of the probabilities Q after the last step.

        Args:
            logits: [N, L, h, w]: scores of the labels, as a network gives them, of the images'
                resolution or a lower one (then they are upsampled bilinearly).
            images: [N, C, H, W] in any dtype, in the units of the kernels' color_width (0..255 by
                the defaults); may be left out when no BilateralKernel is there.
            unary: instead of logits: energies [N, L, h, w], -logits. Infinite ones exclude a label.
            features: one tensor [N, D, H, W] per FeatureKernel, in their order.

        Returns:
            [N, L, H, W] in the dtype of logits (or unary), computed in float32 or float64; at least
            -87 (the logarithm of the smallest normal float32).

        Raises:
            ValueError: shapes that do not fit together, both or neither of logits and unary, images
                or features that are missing, values that are NaN, pixels that exclude every label.
            TypeError: dtype of logits or unary, and what is no tensor.
        """
        guide, dtype = self._guide(logits, images, unary, features)
        # Half precision would lose the small probabilities that later steps build on.
        with torch.autocast(guide.scores.device.type, enabled=False):
            if self._is_frozen_lattice(guide):
                q = self._run_natively(mean_field, guide)
                result = q.clamp_min(_LEAST_PROBABILITY).log()
            else:
                refined = self._iterate(guide.scores.flatten(2), self._terms(guide))
                result = log_softmax(refined).view_as(guide.scores)
                result = result.clamp_min(math.log(_LEAST_PROBABILITY))
        return result.to(dtype)

    def predict(
        self,
        logits: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        *,
        unary: torch.Tensor | None = None,
        features: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Computes the most probable labels [N, H, W], uint8 up to 256 classes, else int32.

        Arguments and errors are those of forward. Not differentiable; faster than forward.
        """
        with torch.no_grad():
            guide, _ = self._guide(logits, images, unary, features)
            if self._is_frozen_lattice(guide):
                return self._run_natively(mean_field_labels, guide)
            refined = self._iterate(guide.scores.flatten(2), self._terms(guide))
            labels = refined.argmax(1).view(-1, *guide.scores.shape[2:])
        return labels.to(label_dtype(self.classes))

    def extra_repr(self) -> str:
        return f"classes={self.classes}, iterations={self.iterations}, method={self.method!r}"

    def _guide(
        self,
        logits: torch.Tensor | None,
        images: torch.Tensor | None,
        unary: torch.Tensor | None,
        features: Sequence[torch.Tensor],
    ) -> tuple[Guide, torch.dtype]:
        """Checked inputs with scores of full resolution, and the dtype of the result."""
        given = _one_of(logits, unary)
        name = "logits" if unary is None else "unary"
        finite = check_scores(name, given, self.classes, higher_is_better=unary is None)
        height, width = self._size(given, images, features)
        compute = compute_dtype(given)
        scores = given.to(compute) if unary is None else -given.to(compute)
        if not finite:
            scores = scores.clamp_min(EXCLUDED)
        if scores.shape[2:] != (height, width):
            scores = upsample_bilinear(scores, (height, width), align_corners=self.align_corners)
        return Guide(scores, images, list(features)), given.dtype

    def _size(
        self,
        given: torch.Tensor,
        images: torch.Tensor | None,
        features: Sequence[torch.Tensor],
    ) -> torch.Size:
        """Height and width of the result; everything must agree."""
        needed = sum(isinstance(k, FeatureKernel) for k in self.kernels)
        if len(features) != needed:
            raise ValueError(f"features has {len(features)} tensors, expected {needed}")
        guides = [("images", images)] if images is not None else []
        guides += [(f"features[{i}]", x) for i, x in enumerate(features)]
        size = given.shape[2:]
        for i, (name, x) in enumerate(guides):
            check_tensor(name, x)
            if x.dim() != 4 or x.shape[0] != given.shape[0] or min(x.shape[1:]) == 0:
                raise ValueError(
                    f"{name} has shape {tuple(x.shape)}, expected [{given.shape[0]}, C, H, W]"
                )
            if x.device != given.device:
                raise ValueError(f"{name} is on {x.device}, expected {given.device} as logits")
            if i == 0:
                size = x.shape[2:]
            elif x.shape[2:] != size:
                raise ValueError(
                    f"{name} has size {tuple(x.shape[2:])}, expected {tuple(size)}"
                    f" as {guides[0][0]}"
                )
            check_finite(name, x)
        return size

    def _is_frozen_lattice(self, guide: Guide) -> bool:
        """Whether the native mean field can run: its lattices have no derivative to features."""
        if self.method != "lattice" or len(self.kernels) > MAX_KERNELS:
            return False
        if (
            torch.compiler.is_exporting()
        ):  # exported graphs need registered ops; the native mean field is not one
            return False
        learned = [k.log_scales for k in self._kernels()] + list(guide.features)
        learned += [] if guide.images is None else [guide.images]
        return not (torch.is_grad_enabled() and any(x.requires_grad for x in learned))

    def _run_natively(self, native: MeanField, guide: Guide) -> torch.Tensor:
        """`native` of the scores, in one call around which torch.compile breaks its graph."""
        run = self._run
        if torch.compiler.is_compiling():  # not as a decorator, which imports the compiler
            run = torch.compiler.disable(run, reason="lattices are no tensors")
        return run(native, guide)

    def _run(self, native: MeanField, guide: Guide) -> torch.Tensor:
        kernels = [
            Kernel(self._lattice(k, seen), k.attraction, k.normalization)
            for k, seen in guide.seen_by(self._kernels())
        ]
        return native(guide.scores, kernels, self.iterations)

    def _kernels(self) -> list[PairwiseKernel]:
        return [kernel for kernel in self.kernels if isinstance(kernel, PairwiseKernel)]

    def _lattice(self, kernel: PairwiseKernel, guide: Guide) -> Lattice:
        if isinstance(kernel, GaussianKernel):
            width = kernel.widths.item()
            height, columns = guide.scores.shape[2:]
            return position_lattice(height, columns, (width, width), like=guide.scores)
        return Lattice(kernel.features(guide))

    def _is_fixed(self, kernel: PairwiseKernel) -> bool:
        """Whether one lattice, which depends on the image's size alone, serves all images."""
        if self.method != "lattice" or torch.compiler.is_compiling():
            return False
        return isinstance(kernel, GaussianKernel) and not kernel.log_scales.requires_grad

    def _terms(self, guide: Guide) -> list[Term]:
        """Each kernel's normalised filter of values [N, L, P], and its result's map to logits."""
        size = guide.scores.shape[2:]
        ones = guide.scores.new_ones(guide.scores.shape[0], 1, size[0] * size[1])
        terms: list[Term] = []
        for kernel, seen in guide.seen_by(self._kernels()):
            kernel.check_parameters()
            if isinstance(kernel, GaussianKernel) and self.method == "exact":
                apply = _separable(size, kernel.widths, guide.scores)
            elif self._is_fixed(kernel):
                apply = self._lattice(kernel, seen).filter
            else:
                f = kernel.features(seen)
                check_finite("features", f)
                apply = self._filter(f, size)
            terms.append((normalized(apply, ones, kernel.normalization), kernel.message))
        return terms

    def _filter(self, f: torch.Tensor, size: torch.Size) -> Apply:
        if self.method == "exact":
            return lambda values: gaussian_filter(values, f)
        if self.method == "window":
            planes = f.unflatten(2, size)
            return lambda values: window_filter(
                values.unflatten(2, size), planes, self.radius
            ).flatten(2)
        if f.requires_grad or torch.compiler.is_compiling():  # operators, which it can trace
            return lambda values: permutohedral_filter(values, f)
        return Lattice(f).filter

    def _iterate(self, scores: torch.Tensor, terms: list[Term]) -> torch.Tensor:
        refined = scores
        for _ in range(self.iterations):
            q = softmax(refined)
            refined = scores
            for apply, message in terms:
                refined = refined + message(apply(q))
        return refined


def _one_of(logits: torch.Tensor | None, unary: torch.Tensor | None) -> torch.Tensor:
    if (logits is None) == (unary is None):
        raise ValueError("exactly one of logits and unary is needed")
    given = unary if logits is None else logits
    assert given is not None
    return given


def _separable(size: torch.Size, widths: torch.Tensor, like: torch.Tensor) -> Apply:
    """The exact Gaussian of positions: along the rows, then along the columns."""
    rows, columns = (
        torch.exp(-0.5 * (x[:, None] - x[None, :]).square())
        for x in (axis_features(n, widths, like=like) for n in size)
    )
    return lambda values: between(rows, values.unflatten(2, size), columns).flatten(2)
