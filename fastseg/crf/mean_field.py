"""Mean-field inference of a fully connected CRF, in one native call."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from .. import _native
from .._checks import FLOAT_DTYPES, check_same_device
from ..backends import Backend, BackendUnavailable, forced_backend
from ..dtypes import compute_dtype, label_dtype
from ..ops.permutohedral_filter import Lattice
from . import mean_field_cuda
from .checks import check_tensor
from .fixed_order import softmax

_NAME = "mean_field"

MAX_KERNELS = 8


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One pairwise term of mean_field: a Gaussian of some features, times a compatibility.

    Attributes:
        lattice: the lattice of the features: one for each image, or one for all of them.
        compatibility: what the filtered probabilities add to the logits: a number or scalar tensor
            w (each label attracts itself: w * filtered), a vector [L], or a matrix [L, L]
            (matrix @ filtered). Positive numbers attract. The Potts model of weight w is the
            scalar w.
        normalization: "symmetric", "before", "after" or "none": see Lattice.scales.
    """

    lattice: Lattice
    compatibility: torch.Tensor | float
    normalization: str = "symmetric"


def mean_field(logits: torch.Tensor, kernels: Sequence[Kernel], steps: int = 5) -> torch.Tensor:
    """Label probabilities after some steps of mean-field inference in a fully connected CRF.

        q = logits.softmax(1)
        for _ in range(steps):
            q = (logits + sum(k.compatibility * filter(q, k) for k in kernels)).softmax(1)

    filter: k.lattice.filter with k.normalization on its two sides. Computed in float32 (float64 for
    float64, by the composition above). The backward recomputes the probabilities of each step; only
    the lattice vertices of each step are saved, far fewer than pixels for natural images. (A CUDA
    graph has room for as many as there could be.)

    Args:
        logits: unary terms, log probabilities up to a constant (the negative energies), [N, L, P]
            or [N, L, H, W] with P = H * W; -inf excludes a label.
        kernels: up to 8 pairwise terms; none are allowed.
        steps: number of steps, at least 0.

    Returns:
        Probabilities, in the shape and dtype of logits. Differentiable in logits and in the
        compatibilities that are tensors.

    Raises:
        ValueError: wrong shapes, devices or options; a pixel with a NaN, +inf or only -inf.
        TypeError: dtypes.
        NotImplementedError: on a gradient of the gradient.
    """
    flat = _check(logits, kernels, steps)
    steps = steps if kernels else 0
    matrices = [_matrix(k, flat) for k in kernels]
    if not _runs_natively(flat, kernels):
        result = composition(flat, kernels, steps)
    elif _native.on_cuda(flat):
        result = _checked(flat, *mean_field_cuda.probabilities(flat, kernels, matrices, steps))
    else:
        result = _MeanField.apply(flat, steps, tuple(kernels), *matrices)
    return result.reshape(logits.shape)


def mean_field_labels(
    logits: torch.Tensor, kernels: Sequence[Kernel], steps: int = 5
) -> torch.Tensor:
    """mean_field(...).argmax(1), without storing the probabilities; the first of equal ones.

    Args:
        logits, kernels, steps: as for mean_field.

    Returns:
        Labels [N, P] or [N, H, W], uint8 up to 256 classes, else int32.

    Raises:
        ValueError, TypeError: as mean_field.
    """
    flat = _check(logits, kernels, steps)
    steps = steps if kernels else 0
    dtype = label_dtype(flat.shape[1])
    matrices = [_matrix(k, flat) for k in kernels]
    if not _runs_natively(flat, kernels):
        labels = composition(flat, kernels, steps).argmax(1)
    elif _native.on_cuda(flat):
        labels = _checked(flat, *mean_field_cuda.labels(flat, kernels, matrices, steps))
    else:
        values = _prepared(flat)
        labels = values.new_empty((flat.shape[0], flat.shape[2]), dtype=torch.int32)
        matrices = [_prepared(m) for m in matrices]
        _forward(values, _Terms(kernels, matrices), steps, labels=labels)
    return labels.to(dtype).reshape(logits.shape[:1] + logits.shape[2:])


def composition(logits: torch.Tensor, kernels: Sequence[Kernel], steps: int) -> torch.Tensor:
    """mean_field of PyTorch operations and Lattice.filter, with their derivatives."""
    compute = compute_dtype(logits)
    unary = logits.to(compute)
    _raise_if_not_finite(unary)
    q = softmax(unary)
    for _ in range(steps):
        total = unary
        for kernel in kernels:
            scales = (s if s is None else s.unsqueeze(1) for s in _scales(kernel))
            before, after = (1.0 if s is None else s for s in scales)
            filtered = kernel.lattice.filter(q * before) * after
            matrix = _matrix(kernel, logits).to(compute)
            total = total + (matrix @ filtered if matrix.dim() == 2 else _column(matrix) * filtered)
        q = softmax(total)
    return q.to(logits.dtype)


def _column(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.unsqueeze(-1) if matrix.dim() == 1 else matrix


def _scales(kernel: Kernel) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return kernel.lattice.scales(kernel.normalization)


def _check(logits: torch.Tensor, kernels: Sequence[Kernel], steps: int) -> torch.Tensor:
    """The logits as [N, L, P]."""
    check_tensor("logits", logits)
    if logits.dim() not in (3, 4):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}, expected [N, L, P] or [N, L, H, W]"
        )
    if logits.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"logits has dtype {logits.dtype}, expected float32, bfloat16, float16 or float64"
        )
    flat = logits.flatten(2)
    if flat.shape[1] == 0 or flat.shape[2] == 0:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}: labels and pixels must be at least 1"
        )
    if isinstance(kernels, Kernel):
        raise TypeError("kernels is a Kernel, expected a sequence of them")
    if len(kernels) > MAX_KERNELS:
        raise ValueError(f"there are {len(kernels)} kernels, allowed are up to {MAX_KERNELS}")
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}, expected an int of at least 0")
    compute = compute_dtype(logits)
    for i, kernel in enumerate(kernels):
        if not isinstance(kernel, Kernel):
            raise TypeError(f"kernels[{i}] is a {type(kernel).__name__}, expected a Kernel")
        lattice = kernel.lattice
        if lattice.num_pixels != flat.shape[2]:
            raise ValueError(
                f"logits has {flat.shape[2]} pixels, the lattice of kernel {i} {lattice.num_pixels}"
            )
        if lattice.batch not in (1, flat.shape[0]):
            raise ValueError(
                f"logits has batch size {flat.shape[0]}, the lattice of kernel {i} was built for "
                f"{lattice.batch}"
            )
        if lattice.dtype is not compute:
            raise TypeError(
                f"logits has dtype {logits.dtype}, the lattice of kernel {i} computes in "
                f"{lattice.dtype}: build it of features of the same precision"
            )
        at = torch.empty(0, device=lattice.device)
        check_same_device("logits", logits, f"the lattice of kernel {i}", at)
        _matrix(kernel, flat)
    return flat


def _matrix(kernel: Kernel, logits: torch.Tensor) -> torch.Tensor:
    """The compatibility as a tensor of 0, 1 or 2 dimensions."""
    matrix, labels = kernel.compatibility, logits.shape[1]
    if not isinstance(matrix, torch.Tensor):
        matrix = _number(matrix, logits)
    if tuple(matrix.shape) not in ((), (labels,), (labels, labels)):
        raise ValueError(
            f"compatibility has shape {tuple(matrix.shape)}, expected a scalar, ({labels},) or "
            f"({labels}, {labels}) for the {labels} labels of logits"
        )
    if not matrix.is_floating_point():
        raise TypeError(f"compatibility has dtype {matrix.dtype}, expected floating point")
    check_same_device("compatibility", matrix, "logits", logits)
    return matrix


def _number(value: Any, logits: torch.Tensor) -> torch.Tensor:
    dtype = compute_dtype(logits)
    try:
        return torch.full((), float(value), dtype=dtype, device=logits.device)
    except (TypeError, ValueError):
        raise TypeError(
            f"compatibility is {value!r}, expected a number or a tensor [L] or [L, L]"
        ) from None


def _runs_natively(logits: torch.Tensor, kernels: Sequence[Kernel]) -> bool:
    forced = forced_backend()
    reason = _native.unsupported_reason(logits, cuda=True)
    if logits.dtype is torch.float64:
        reason = reason or "dtype torch.float64 (supported: float32, bfloat16, float16)"
    if any(k.lattice.handles is None for k in kernels):
        reason = reason or "a lattice was not built natively"
    if reason is None and _native.on_cuda(logits):
        reason = mean_field_cuda.unsupported_reason(logits, kernels)
    elif reason is None:
        corners = sum(k.lattice.num_features + 1 for k in kernels)
        if corners > (most := _native.core(_NAME).max_corners):
            reason = f"{corners} corners per pixel, features + 1 of each kernel (at most {most})"
    if forced is Backend.NATIVE and reason is not None:
        raise BackendUnavailable(f"mean_field cannot run natively: {reason}")
    return reason is None and forced in (None, Backend.NATIVE)


def _raise_if_not_finite(logits: torch.Tensor) -> None:
    largest = logits.detach().amax(1)  # NaN where there is one
    bad = ~largest.isfinite()
    if bad.any():
        n, p = (int(i) for i in bad.nonzero()[0])
        found = [round(x, 6) for x in logits[n, :, p].detach().tolist()[:8]]
        raise ValueError(
            f"logits of image {n} are {found} at pixel {p}: expected finite numbers (-inf for "
            "labels that are excluded, but not for all of them)"
        )


def negated(energies: torch.Tensor, out: torch.Tensor) -> bool:
    """out = -energies, float32 on the CPU, one value after the other; whether all are finite."""
    if _native._C is None:
        torch.neg(energies.view_as(out), out=out)
        return bool(out.isfinite().all())
    return bool(
        _native.core(_NAME).cpu_negate(
            energies.data_ptr(), out.data_ptr(), out.numel(), torch.get_num_threads()
        )
    )


def _checked(logits: torch.Tensor, result: torch.Tensor, bad: torch.Tensor) -> torch.Tensor:
    image = mean_field_cuda.is_bad(bad)
    if image is not None:
        _raise_if_not_finite(logits)
        raise ValueError(_bad_compatibility(image))
    return result


def _bad_compatibility(image: int) -> str:
    return f"image {image}: a compatibility is not finite, or too large"


def _prepared(x: torch.Tensor) -> torch.Tensor:
    """Makes x float32 and contiguous; returns x itself if it is."""
    x = x.detach()
    if x.dtype is torch.float32 and x.is_contiguous():
        return x
    return _native.scratch(*x.shape).copy_(x)


class _Terms:
    """The kernels in native form, with the owners of all their addresses."""

    def __init__(self, kernels: Sequence[Kernel], matrices: Sequence[torch.Tensor]) -> None:
        # Terms hold addresses: the owners of that memory must live as long.
        self.kept: list[Any] = [*kernels, *matrices]
        self.native = []
        for kernel, matrix in zip(kernels, matrices, strict=True):
            scales = _scales(kernel)
            self.kept.append(scales)
            scale_in, scale_out = map(_native.address, scales)
            self.native.append(
                _native.core(_NAME).Term(
                    lattices=kernel.lattice.handles,
                    scale_in=scale_in,
                    scale_out=scale_out,
                    kind=matrix.dim(),
                    compatibility=matrix.data_ptr(),
                )
            )


def _forward(
    logits: torch.Tensor,
    terms: _Terms,
    steps: int,
    *,
    probabilities: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    saved: torch.Tensor | None = None,
) -> None:
    """Fills the tensors that are given."""
    if logits.shape[0] == 0:
        return
    bad = _native.core(_NAME).cpu_forward(
        terms.native,
        *logits.shape,
        steps,
        torch.get_num_threads(),
        logits=logits.data_ptr(),
        probabilities=_native.address(probabilities),
        map=_native.address(labels),
        saved=_native.address(saved),
    )
    if bad >= 0:
        _raise_if_not_finite(logits)
        raise ValueError(_bad_compatibility(bad))


class _MeanField(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        steps: int,
        kernels: tuple[Kernel, ...],
        *matrices: torch.Tensor,
    ) -> torch.Tensor:
        values = _prepared(logits)
        ctx.steps, ctx.terms = steps, _Terms(kernels, [_prepared(m) for m in matrices])
        saved = None
        if any(ctx.needs_input_grad) and logits.shape[0] > 0:
            floats = _native.core(_NAME).saved_floats(ctx.terms.native, *values.shape, steps)
            saved = _native.scratch(sum(floats))
        result = _native.scratch(*values.shape)
        _forward(values, ctx.terms, steps, probabilities=result, saved=saved)
        # The original logits, not `values`: autograd holds them already.
        ctx.save_for_backward(logits, saved, *matrices)
        return result.to(logits.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        logits, saved, *matrices = ctx.saved_tensors
        values, grad = _prepared(logits), _prepared(grads[0])
        grad_logits = _native.scratch(*values.shape)
        batch = values.shape[0]
        grad_matrices = [
            # Per image and in float64: images may be computed in any order.
            values.new_zeros((batch, *m.shape), dtype=torch.float64) if needed else None
            for m, needed in zip(matrices, ctx.needs_input_grad[3:], strict=True)
        ]
        if batch > 0:
            _native.core(_NAME).cpu_backward(
                ctx.terms.native,
                *values.shape,
                ctx.steps,
                torch.get_num_threads(),
                logits=values.data_ptr(),
                saved=_native.address(saved),
                grad_probabilities=grad.data_ptr(),
                grad_logits=grad_logits.data_ptr(),
                grad_compatibility=[_native.address(g) for g in grad_matrices],
            )
        sums = [
            None if g is None else g.sum(0).to(m.dtype)
            for g, m in zip(grad_matrices, matrices, strict=True)
        ]
        return grad_logits.to(logits.dtype), None, None, *sums
