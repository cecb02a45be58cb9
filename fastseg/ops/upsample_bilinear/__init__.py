"""Bilinear resize of a map, with a deterministic gather backward."""

from __future__ import annotations

import torch

from ..._private_torch import is_plain_call
from ...backends import forced_backend
from . import native
from .op import upsample_bilinear_op, upsample_bilinear_out_op
from .size import resolve_size

__all__ = ["upsample_bilinear"]

# Values of a result up to which a call of PyTorch's dispatcher, some 35 us, costs more than a part
# of the resizing: the native core is called without it where nothing but the value is asked for.
_SMALL = 1 << 20


def upsample_bilinear(
    x: torch.Tensor,
    size: int | tuple[int, int] | None = None,
    scale_factor: float | tuple[float, float] | None = None,
    align_corners: bool = False,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Resizes a map by bilinear interpolation, up or down.

    The same function as F.interpolate(x, size, scale_factor, mode="bilinear", align_corners=...)
    without antialiasing. The backward gathers with float32 accumulation: it is deterministic, and
    in bfloat16 and float16 each gradient is rounded once. The result has the memory format of x.

    Args:
        x: map [N, C, H, W]; float32, bfloat16, float16 or float64; N may be 0.
        size: height and width of the result in pixels, each at least 1; one int for both.
        scale_factor: instead of size: result = floor(input * scale_factor), finite and positive. As
            in F.interpolate (recompute_scale_factor unset) the factor itself, not the ratio of the
            sizes, gives the sampling positions.
        align_corners: whether the centres of the corner pixels stay in place (True) or the corners
            of the corner pixels (False).
        out: map [N, C, *size] to write to, in the dtype, device and memory format of the result,
            not overlapping x; not differentiable.

    Returns:
        Map [N, C, *size], same dtype as x.

    Raises:
        ValueError: x is not [N, C, H, W] with C, H, W >= 1; both or neither of size and
            scale_factor; a size below 1; a factor that is not finite and positive; an unfit out.
        TypeError: dtype of x; a size that is not whole.
    """
    if out is None and scale_factor is None and _is_small(x, size):
        return native.quick_forward(x, size, align_corners)  # type: ignore[arg-type]
    target, scales = resolve_size(x, size, scale_factor)
    if out is None:
        return upsample_bilinear_op(x, target, align_corners, *scales)
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise ValueError("out cannot be used where gradients are recorded: use torch.no_grad()")
    upsample_bilinear_out_op(x, target, align_corners, *scales, out)
    return out


def _is_small(x: torch.Tensor, size: object) -> bool:
    """Whether the native core may be called at once: a small float32 map on the CPU."""
    if type(size) is not tuple or len(size) != 2 or not is_plain_call(x):
        return False
    height, width = size
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        return False
    if x.dtype is not torch.float32 or not x.is_cpu or x.dim() != 4 or x.numel() == 0:
        return False
    if x.shape[0] * x.shape[1] * height * width > _SMALL or forced_backend() is not None:
        return False
    return native.unsupported_reason("forward", x=x) is None
