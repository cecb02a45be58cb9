"""The contract of upsample_argmax: schema, fake, backends."""

from __future__ import annotations

import torch

from ..._checks import check_map, check_size
from ...backends import Backend
from ...dtypes import label_dtype
from ...registry import Function, OpSpec, define
from . import native, reference


def _check(logits: torch.Tensor, size: list[int], align_corners: bool) -> None:
    check_map("logits", logits)
    check_size(size)


def _fake(logits: torch.Tensor, size: list[int], align_corners: bool) -> torch.Tensor:
    return logits.new_empty((logits.shape[0], *size), dtype=label_dtype(logits.shape[1]))


upsample_argmax_op = define(
    OpSpec(
        name="upsample_argmax",
        functions={
            "": Function(
                schema="(Tensor logits, SymInt[] size, bool align_corners) -> Tensor",
                check=_check,
                fake=_fake,
                batched=("logits",),
            )
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
