"""predict_panoptic and predict_instances."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn

from .._checks import check_module
from ..nn.evaluation import in_eval_mode
from .api import layers_of, target_size_pairs
from .known import queries_for
from .segments import Segments, instances, panoptic


@torch.no_grad()
def predict_panoptic(
    model: nn.Module,
    images: torch.Tensor,
    target_sizes: Sequence[tuple[int, int]] | None = None,
    *,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    overlap_threshold: float = 0.8,
    fused: Collection[int] = (),
) -> list[Segments]:
    """Segments of objects and of regions that do not overlap, from a model with masks of queries.

    The same segments as the image processor's post_process_panoptic_segmentation in transformers,
    resized for the queries alone that are left. The model runs in eval mode; its own mode is
    restored afterwards.

    Args:
        model: MaskFormer or Mask2Former of transformers, accelerated or not.
        images: the model's input [N, C, H, W].
        target_sizes: height and width, in pixels, of the map of each image; None for the size that
            the library resizes masks to (384 for Mask2Former).
        threshold: queries whose class score is not above it are dropped, from 0 to 1.
        mask_threshold: where a mask times its score reaches it, it counts for the query's own area.
        overlap_threshold: queries that keep no larger share of their own area are dropped.
        fused: classes whose segments are one, such as sky or road.

    Returns:
        For each image "segmentation" int32 [H, W], ids from 1 and 0 where there is none (-1 if no
        query is left), and "segments_info": of each segment its "id", "label_id", "score" and
        "was_fused".

    Raises:
        TypeError: the model has no masks of queries.
        ValueError: not as many target sizes as images.
    """
    options = (threshold, mask_threshold, overlap_threshold, frozenset(fused))
    return _segments(model, images, target_sizes, panoptic, *options)


@torch.no_grad()
def predict_instances(
    model: nn.Module,
    images: torch.Tensor,
    target_sizes: Sequence[tuple[int, int]] | None = None,
    *,
    threshold: float = 0.5,
) -> list[Segments]:
    """Objects, from a model with masks of queries.

    The same objects as the image processor's post_process_instance_segmentation in transformers.
    The model runs in eval mode; its own mode is restored afterwards.

    Args:
        model: MaskFormer or Mask2Former of transformers, accelerated or not.
        images: the model's input [N, C, H, W].
        target_sizes: height and width, in pixels, of the map of each image; None for the size that
            the library resizes masks to (384 for Mask2Former).
        threshold: the least score of an object, that of its class times the mean of its mask.

    Returns:
        For each image "segmentation" int32 [H, W], ids from 0 and -1 where there is none (the later
        id where objects overlap), and "segments_info": of each object its "id", "label_id",
        "score" and "was_fused" (False).

    Raises:
        TypeError: the model has no masks of queries.
        ValueError: not as many target sizes as images.
    """
    return _segments(model, images, target_sizes, instances, threshold)


def _segments(
    model: nn.Module,
    images: torch.Tensor,
    target_sizes: Sequence[tuple[int, int]] | None,
    find: Callable[..., Segments],
    *options: Any,
) -> list[Segments]:
    check_module(model)
    sizes = target_size_pairs(images, target_sizes)
    root = layers_of(model)[-1]
    queries = queries_for(root)
    if queries is None:
        raise TypeError(
            f"model is a {type(root).__name__}, expected one with masks of queries: MaskFormer or "
            "Mask2Former of transformers"
        )
    return in_eval_mode(model, lambda: queries.segments(model, images, sizes, find, *options))
