"""Convolution of resized and concatenated maps, multiplied at the maps' own resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..._checks import (
    FLOAT_DTYPES,
    check_map,
    check_same_device,
    check_shape,
    check_size,
    size_pair,
)
from ..._private_torch import may_write_in_place
from ...layout import in_format, map_format
from .autocast import autocast_enabled, in_autocast_dtype
from .lowres import Resize, add_bias, add_resized, convolve_large, largest, project, smallest
from .phases import add_phases
from .plan import pays, phases_pay
from .pointwise import add_product, in_layout, with_gradient_of_sum

__all__ = ["upsample_conv2d"]


def upsample_conv2d(
    parts: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    mode: str = "bilinear",
    align_corners: bool = False,
) -> torch.Tensor:
    """Convolves maps of several resolutions as if resized to one size and concatenated.

    The same function as F.conv2d(torch.cat([F.interpolate(p, size, mode=mode, ...) for p in parts],
    1), weight, bias, padding=k // 2), and linear in the same tensors, but where that is cheaper a
    part is multiplied with every tap of the kernel at its own resolution, and the products are
    resized and summed: an x4 map costs a sixteenth. Maps of few channels that are doubled to the
    nearest pixel go through four 2x2 convolutions, one per phase of the result. Zero padding is
    exact at the borders. Parts of the final size go through an ordinary convolution. Gradients are
    deterministic. Under autocast it runs in the lower precision, as F.conv2d.

    Args:
        parts: maps [N, C_i, h_i, w_i] of one dtype and device; N may be 0, and so may C_i, but not
            of all of them.
        weight: [C_out, sum of C_i, k, k] with k = 1 or 3.
        bias: [C_out].
        size: height and width to resize the parts to, and of the result; by default those of the
            part with most pixels.
        mode: "bilinear" or "nearest", as in F.interpolate.
        align_corners: as in F.interpolate; only for "bilinear".

    Returns:
        Map [N, C_out, *size], in the memory format of the part with most pixels. It is computed in
        channels_last: other maps are copied.

    Raises:
        ValueError: no parts; shapes, devices, size or mode that do not fit; align_corners with
            "nearest".
        TypeError: dtypes; a size that is not whole; parts that are no sequence of tensors.
    """
    parts = _check_parts(parts)
    main = parts[largest(parts)]
    target = size_pair(list(main.shape[2:]) if size is None else size)
    check_size(target)
    _check_weight(parts, weight, bias)
    parts = [part for part in parts if part.shape[1] > 0]
    resize = Resize(target, mode, align_corners)
    layout = map_format(main)
    parts, weight, bias = in_autocast_dtype(parts, weight, bias)
    out = _convolve(parts, weight, bias, resize)
    return in_layout(out, layout)


def _convolve(
    parts: list[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    resize: Resize,
) -> torch.Tensor:
    size = resize.size
    large, large_weights, low, low_weights, doubled = [], [], [], [], []
    weights = weight.split([p.shape[1] for p in parts], dim=1)
    for part, part_weight in zip(parts, weights, strict=True):
        if phases_pay(part, part_weight, size, resize.mode):
            doubled.append((part, part_weight))
        elif pays(part, part_weight, size):
            low.append(in_format(part, torch.channels_last))
            low_weights.append(part_weight)
        else:
            large.append(resize(part))
            large_weights.append(part_weight)
    kernel = weight.shape[2]
    if low and kernel == 1:
        return _convolve_pointwise(large, large_weights, low, low_weights, bias, resize)
    out = None
    if large:
        large_weight = weight if len(large) == len(parts) else _cat(large_weights)
        out = convolve_large(_cat(large), large_weight, bias)
    taps = [project(p, w) for p, w in zip(low, low_weights, strict=True)]
    if taps:
        out = add_resized(out, taps, kernel, resize)
    for part, part_weight in doubled:
        out = add_phases(out, part, part_weight)
    assert out is not None
    return out if large or bias is None else add_bias(out, bias)


def _convolve_pointwise(
    large: list[torch.Tensor],
    large_weights: list[torch.Tensor],
    low: list[torch.Tensor],
    low_weights: list[torch.Tensor],
    bias: torch.Tensor | None,
    resize: Resize,
) -> torch.Tensor:
    """The parts of low resolution first, so that the product with the others is added in place."""
    # The gradient to the bias goes around the taps, where autograd sees to no more than gradients.
    around = bias is not None and may_write_in_place(bias, *low, *low_weights)
    constant = bias.detach() if bias is not None and around else bias
    taps = [
        # Resizing keeps a constant: the bias is added where there are fewest pixels.
        project(p, w, constant if i == smallest(low) else None)
        for i, (p, w) in enumerate(zip(low, low_weights, strict=True))
    ]
    out = add_resized(None, taps, 1, resize)
    if large:
        out = add_product(out, _cat(large), _cat(large_weights))
    return with_gradient_of_sum(out, bias) if bias is not None and around else out


def _cat(maps: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(maps, 1) if len(maps) > 1 else maps[0]


def _check_parts(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    if isinstance(parts, torch.Tensor) or not isinstance(parts, (tuple, list)):
        raise TypeError(f"parts is a {type(parts).__name__}, expected a sequence of maps")
    if len(parts) == 0:
        raise ValueError("parts is empty, expected at least one map")
    first = parts[0]
    for i, part in enumerate(parts):
        name = f"parts[{i}]"
        if not isinstance(part, torch.Tensor):
            raise TypeError(f"{name} is a {type(part).__name__}, expected a map [N, C, H, W]")
        # Encoders mark a resolution that they do not have by a map without channels.
        check_map(name, part, least_channels=0)
        check_same_device(name, part, "parts[0]", first)
        if part.dtype != first.dtype and not autocast_enabled(part):
            raise TypeError(f"{name} has dtype {part.dtype}, expected {first.dtype} as parts[0]")
        if part.shape[0] != first.shape[0]:
            raise ValueError(
                f"{name} has batch size {part.shape[0]}, expected {first.shape[0]} as parts[0]"
            )
    return list(parts)


def _check_weight(
    parts: list[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    channels = sum(p.shape[1] for p in parts)
    if channels == 0:
        raise ValueError("parts have no channels, expected at least one in all")
    if weight.dim() != 4 or weight.shape[0] == 0 or weight.shape[2:] not in ((1, 1), (3, 3)):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected [C_out, {channels}, k, k] "
            "with k = 1 or 3"
        )
    why = f"the parts have {channels} channels in all"
    check_shape("weight", weight, (weight.shape[0], channels, *weight.shape[2:]), why)
    if bias is not None:
        check_shape("bias", bias, (weight.shape[0],), "the first dimension of weight")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        check_same_device(name, tensor, "parts[0]", parts[0])
        castable = autocast_enabled(tensor) and tensor.dtype in FLOAT_DTYPES
        if tensor.dtype != parts[0].dtype and not castable:
            raise TypeError(
                f"{name} has dtype {tensor.dtype}, expected {parts[0].dtype} as parts[0]"
            )
