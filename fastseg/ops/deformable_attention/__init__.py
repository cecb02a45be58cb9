"""Multi-scale deformable attention: weighted sums of values at a few places of several maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..._checks import check_not_traced, is_integer
from .op import deformable_attention_op

__all__ = ["deformable_attention"]


def deformable_attention(
    value: torch.Tensor,
    shapes: Sequence[tuple[int, int]] | torch.Tensor,
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Sums, for every query and head, the values at P places of each of L maps.

        out[n, q, m] = sum over l, p of weights[n, q, m, l, p] * sample(level l of head m, location)

    The same function as F.grid_sample(level, 2 * locations - 1, mode="bilinear",
    padding_mode="zeros", align_corners=False) per level, times the weights and summed, without the
    sampled values [N * M, D, Lq, L * P] in memory. A location that is NaN makes the result of its
    head NaN. The gradients are gathered, never scattered: the same bits in every run.

    Args:
        value: [N, S, M, D], the cells of all levels one after the other, row by row, with M heads
            of D channels; float32, bfloat16, float16 (sums in float32) or float64; N may be 0.
        shapes: height and width of each level in cells; together they have S cells, and a level
            may have none. A tensor [L, 2] is read, which waits for a GPU: pass pairs of ints.
        locations: [N, Lq, M, L, P, 2], x then y as shares of the level's width and height: 0 and 1
            are its edges. Places outside count as zeros. In the dtype of `value`, or float32
            where that has 16 bits, which keeps their digits.
        weights: [N, Lq, M, L, P], in either of these dtypes.

    Returns:
        [N, Lq, M * D] in the dtype of `value`, contiguous. All three tensors are differentiable,
        any number of times.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: dtypes; a height or width that is not whole.

    Source: Zhu et al., Deformable DETR: deformable transformers for end-to-end object detection,
    ICLR 2021, equation 3.
    """
    return deformable_attention_op(value, _flat(shapes), locations, weights)


def _flat(shapes: Sequence[tuple[int, int]] | torch.Tensor) -> list[int]:
    """[height, width, height, width, ...]"""
    if isinstance(shapes, torch.Tensor):
        check_not_traced("the sizes of the levels")
        if shapes.dim() != 2 or shapes.shape[1] != 2:
            raise ValueError(f"shapes has shape {tuple(shapes.shape)}, expected [L, 2]")
        if shapes.is_floating_point() or shapes.is_complex():
            raise TypeError(f"shapes has dtype {shapes.dtype}, expected integers")
        return shapes.flatten().tolist()
    flat: list[int] = []
    for level in shapes:
        if not isinstance(level, (tuple, list, torch.Size)) or not all(map(is_integer, level)):
            raise TypeError(f"shapes has the level {level!r}, expected (height, width) in cells")
        if len(level) != 2:
            raise ValueError(f"shapes has the level {level!r}, expected (height, width)")
        flat += level
    return flat
