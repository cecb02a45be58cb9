"""Panoptic and instance segmentation of one image from the masks and classes of queries, with the
results of transformers' post-processing."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F

Segments = dict[str, Any]


def panoptic(
    masks: torch.Tensor,
    logits: torch.Tensor,
    size: tuple[int, int] | None,
    threshold: float,
    mask_threshold: float,
    overlap_threshold: float,
    fused: Collection[int],
) -> Segments:
    """Segments that do not overlap: each pixel goes to the query whose mask, times its score, is
    the largest there.

    Args:
        masks: mask logits [Q, h, w].
        logits: class logits [Q, C + 1], "no object" last.
        size: height and width of the map; None: those of the masks.
        threshold: queries whose score is not above it are dropped.
        mask_threshold: where a mask times its score reaches it, it counts for the query's own area.
        overlap_threshold: queries that keep no larger share of their own area are dropped.
        fused: classes whose segments get one id.

    Returns:
        "segmentation" int32 [H, W], ids from 1 and 0 where there is none (-1 everywhere if no
        query is left), and "segments_info", of each id its class and score.
    """
    scores, classes = logits.softmax(1).max(1)
    kept = (classes != logits.shape[1] - 1) & (scores > threshold)
    scores, classes = scores[kept], classes[kept]
    height, width = masks.shape[1:] if size is None else size
    if len(scores) == 0:
        nothing = torch.full((height, width), -1, dtype=torch.int32, device=masks.device)
        return {"segmentation": nothing, "segments_info": []}
    shares = masks[kept].sigmoid()
    if size is not None:
        shares = F.interpolate(shares[None], size, mode="bilinear", align_corners=False)[0]
    shares *= scores[:, None, None]
    owner = shares.argmax(0)
    areas = torch.bincount(owner.flatten(), minlength=len(scores))
    own_areas = (shares >= mask_threshold).flatten(1).sum(1)
    # 0 / 0 is NaN, which is above no threshold.
    large = torch.where(areas > 0, areas / own_areas, 0.0).cpu() > overlap_threshold
    large &= (own_areas > 0).cpu()
    ids = torch.zeros(len(scores), dtype=torch.int32)
    found: list[dict[str, Any]] = []
    id_of_class: dict[int, int] = {}
    last = 0
    columns = (scores.tolist(), classes.tolist(), large.tolist())
    for k, (score, label, is_large) in enumerate(zip(*columns, strict=True)):
        if not is_large:
            continue
        # Ids count on from that of a fused class, as in transformers.
        last = id_of_class[label] if label in id_of_class else last + 1
        ids[k] = last
        fuse = label in fused
        found.append({"id": last, "label_id": label, "was_fused": fuse, "score": round(score, 6)})
        if fuse:
            id_of_class[label] = last
    return {"segmentation": ids.to(masks.device)[owner], "segments_info": found}


def instances(
    masks: torch.Tensor, logits: torch.Tensor, size: tuple[int, int] | None, threshold: float
) -> Segments:
    """The objects whose score, that of the class times the mean of the mask, reaches a threshold.

    Args:
        masks: mask logits [Q, h, w].
        logits: class logits [Q, C + 1], "no object" last.
        size: height and width of the map; None: those of the masks.
        threshold: the score.

    Returns:
        "segmentation" int32 [H, W], ids from 0 and -1 where there is none; where objects overlap,
        the later id; and "segments_info", of each id its class and score.
    """
    queries, classes = logits.shape[0], logits.shape[1] - 1
    best, index = logits.softmax(1)[:, :-1].flatten().topk(queries, sorted=False)
    chosen = masks[index.div(classes, rounding_mode="floor")]
    inside = (chosen > 0).to(masks.dtype)
    mean = (chosen.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    scores = best * mean
    kept = scores >= threshold
    inside = inside[kept]
    if size is not None and len(inside) > 0:
        inside = F.interpolate(inside[None], size, mode="nearest")[0]
    shape = masks.shape[1:] if size is None else size
    segmentation = torch.full(tuple(shape), -1, dtype=torch.int32, device=masks.device)
    found: list[dict[str, Any]] = []
    seen = inside.flatten(1).amax(1).tolist() if len(inside) > 0 else []
    columns = (scores[kept].tolist(), (index[kept] % classes).tolist(), seen)
    for mask, score, label, largest in zip(inside, *columns, strict=True):
        if largest == 0:
            continue
        segmentation[mask == 1] = len(found)
        found.append(
            {"id": len(found), "label_id": label, "was_fused": False, "score": round(score, 6)}
        )
    return {"segmentation": segmentation, "segments_info": found}
