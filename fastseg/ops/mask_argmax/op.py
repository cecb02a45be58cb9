"""The contract of mask_argmax: schema, fake, backends."""

from __future__ import annotations

import torch

from ..._checks import check_map, check_same_device, check_size
from ...backends import Backend
from ...dtypes import compute_dtype, label_dtype
from ...registry import Function, OpSpec, define
from . import native, reference


def check(
    masks: torch.Tensor,
    class_probs: torch.Tensor,
    size: list[int],
    crop: list[int],
    out_size: list[int],
) -> None:
    """Raises ValueError or TypeError for arguments that mask_argmax does not take."""
    check_map("masks", masks)
    check_same_device("class_probs", class_probs, "masks", masks)
    shape = tuple(class_probs.shape)
    if len(shape) != 3 or shape[:2] != tuple(masks.shape[:2]) or shape[2] == 0:
        raise ValueError(
            f"class_probs has shape {shape}, expected [N, Q, C >= 1] with N, Q = "
            f"{tuple(masks.shape[:2])} of masks"
        )
    if class_probs.dtype not in (masks.dtype, compute_dtype(masks)):
        raise TypeError(
            f"class_probs has dtype {class_probs.dtype}, expected {masks.dtype} as masks"
            + (" or float32" if masks.dtype in (torch.bfloat16, torch.float16) else "")
        )
    check_size(size)
    for name, pair in (("crop", crop), ("out_size", out_size)):
        if len(pair) != 2 or pair[0] <= 0 or pair[1] <= 0:
            raise ValueError(f"{name} is {tuple(pair)}, expected height and width of at least 1")
    if crop[0] > size[0] or crop[1] > size[1]:
        raise ValueError(f"crop is {tuple(crop)}, expected at most size, which is {tuple(size)}")


def _fake(
    masks: torch.Tensor,
    class_probs: torch.Tensor,
    size: list[int],
    crop: list[int],
    out_size: list[int],
) -> torch.Tensor:
    dtype = label_dtype(class_probs.shape[2])
    return masks.new_empty((masks.shape[0], *out_size), dtype=dtype)


mask_argmax_op = define(
    OpSpec(
        name="mask_argmax",
        functions={
            "": Function(
                schema="(Tensor masks, Tensor class_probs, SymInt[] size, SymInt[] crop,"
                " SymInt[] out_size) -> Tensor",
                check=check,
                fake=_fake,
                batched=("masks", "class_probs"),
            )
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
