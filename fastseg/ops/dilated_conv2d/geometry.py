"""The size arguments of F.conv2d."""

from __future__ import annotations

import torch


def pair(name: str, value: int | tuple[int, ...] | list[int]) -> list[int]:
    """[vertical, horizontal] from one int or two."""
    if isinstance(value, (int, torch.SymInt)):
        return [value, value]
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return list(value)
    raise ValueError(f"{name} is {value!r}, expected an int or two (vertical, horizontal)")


def same_padding(
    padding: str, weight: torch.Tensor, stride: list[int], dilation: list[int]
) -> tuple[list[int], list[int]]:
    """Padding of every border, and what has to be added at the bottom and right before it."""
    if padding == "valid":
        return [0, 0], [0, 0]
    if padding != "same":
        raise ValueError(f"padding is {padding!r}, expected ints, 'same' or 'valid'")
    if list(stride) != [1, 1]:
        raise ValueError(f"padding is 'same' with stride {tuple(stride)}, expected stride 1")
    if weight.dim() != 4:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected 4 dimensions")
    total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    return [t // 2 for t in total], [t % 2 for t in total]


def output_size(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> list[int]:
    """[H_out, W_out] of the convolution of x with weight."""
    return [
        (x.shape[2 + a] + 2 * padding[a] - dilation[a] * (weight.shape[2 + a] - 1) - 1) // stride[a]
        + 1
        for a in (0, 1)
    ]
