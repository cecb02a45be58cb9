"""Convolutions of one map beside each other, scaled, shifted and clamped: for inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..._checks import check_map, check_same_device, check_shape
from ...layout import empty_map, map_format
from ...registry import Function

_LIMIT = 2**31


def conv_branches(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    dilations: Sequence[int],
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    limit: float = float("inf"),
) -> torch.Tensor:
    """Several convolutions of one map that keep its size, concatenated; not differentiable.

    The same as torch.cat([F.conv2d(x, w, padding="same", dilation=d) ...], 1), times scale, plus
    shift, clamped to [0, limit]: the branches of an ASPP with their batch norms and ReLU. On a GPU
    where Triton was measured to be faster it is one launch, which writes every branch into its
    channels of the result; elsewhere it is torch's convolutions.

    Args:
        x: map [N, C_in, H, W]; float32, bfloat16, float16 or float64.
        weights: of each branch [C_out, C_in, kernel_h, kernel_w], both odd, same dtype and device
            as x; C_out is the same for all.
        dilations: of each branch, at least 1.
        scale, shift: [len(weights) * C_out] or None; float32 or the dtype of x.
        limit: at least 0; infinity for ReLU.

    Returns:
        Map [N, len(weights) * C_out, H, W] in x's memory format.

    Raises:
        ValueError: shapes that do not fit, mixed devices, numbers out of range.
        TypeError: dtypes.
    """
    op = torch.ops.fastseg.dilated_conv2d_branches.default
    return op(x, list(weights), scale, shift, list(dilations), limit)


def same_padding_of(weight: torch.Tensor, dilation: int) -> list[int]:
    """Padding with which a convolution with an odd kernel keeps the size."""
    return [dilation * (weight.shape[2] // 2), dilation * (weight.shape[3] // 2)]


def _check(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    dilations: list[int],
    limit: float,
) -> None:
    check_map("x", x)
    if len(weights) == 0:
        raise ValueError("weights is empty, expected at least one")
    if len(dilations) != len(weights):
        raise ValueError(f"dilations has {len(dilations)} numbers for {len(weights)} weights")
    if min(dilations) < 1 or max(dilations) >= _LIMIT:
        raise ValueError(f"dilations is {tuple(dilations)}, expected at least 1 and below 2**31")
    for i, weight in enumerate(weights):
        name = f"weights[{i}]"
        _check_dtype(name, weight, x, (x.dtype,))
        if (
            weight.dim() != 4
            or weight.shape[:2] != (weights[0].shape[0], x.shape[1])
            or weight.shape[0] == 0
            or weight.shape[2] % 2 == 0
            or weight.shape[3] % 2 == 0
        ):
            raise ValueError(
                f"{name} has shape {tuple(weight.shape)}, expected [C_out, {x.shape[1]}, kernel_h, "
                "kernel_w] with the C_out of all of them and odd kernels"
            )
    channels = len(weights) * weights[0].shape[0]
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is not None:
            _check_dtype(name, vector, x, (x.dtype, torch.float32))
            check_shape(name, vector, (channels,), "one number for each channel of the result")
    if not limit >= 0:
        raise ValueError(f"limit is {limit}, expected at least 0")


def _check_dtype(
    name: str, tensor: torch.Tensor, x: torch.Tensor, allowed: tuple[torch.dtype, ...]
) -> None:
    check_same_device(name, tensor, "x", x)
    if tensor.dtype not in allowed:
        expected = " or ".join(dict.fromkeys(map(str, allowed)))
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {expected}")


def _fake(x: torch.Tensor, weights: list[torch.Tensor], *_: Any) -> torch.Tensor:
    return empty_map(x, len(weights) * weights[0].shape[0], x.shape[2:])


BRANCHES = Function(
    schema="(Tensor x, Tensor[] weights, Tensor? scale, Tensor? shift, SymInt[] dilations, "
    "float limit) -> Tensor",
    check=_check,
    fake=_fake,
    implementation="branches",
    layout=map_format,
)
