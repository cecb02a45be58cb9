"""The contract of upsample_confusion_matrix: schema, fake, backends."""

from __future__ import annotations

import torch

from ..._checks import check_map, check_target
from ...backends import Backend
from ...registry import Function, OpSpec, define
from . import native, reference


def _check(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int, align_corners: bool
) -> None:
    check_map("logits", logits)
    check_target(target, logits)


def _fake(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int, align_corners: bool
) -> torch.Tensor:
    classes = logits.shape[1]
    return logits.new_empty((classes, classes), dtype=torch.int64)


upsample_confusion_matrix_op = define(
    OpSpec(
        name="upsample_confusion_matrix",
        functions={
            "": Function(
                schema="(Tensor logits, Tensor target, int ignore_index, bool align_corners)"
                " -> Tensor",
                check=_check,
                fake=_fake,
            )
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
