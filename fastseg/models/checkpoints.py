"""From a checkpoint to its model: the family is recognised from the names of the tensors."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .base import SegmentationModel
from .files import StateDict, read_tensors, unwrap
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2


@dataclasses.dataclass(frozen=True)
class Family:
    """Checkpoints whose tensors have the same names: one model class, whatever the widths.

    Attributes:
        name: how messages and the CLI call it.
        model: its class. `model()` must build the standard variant: the names of its tensors are
            those that the checkpoint must have. `model.arguments(state_dict)` reads the
            constructor's arguments off the shapes.
        signature: prefixes that, all present, tell this family from every other.
    """

    name: str
    model: Any
    signature: tuple[str, ...]


FAMILIES = (
    Family(
        "tf-deeplab-mobilenetv2",
        TFDeepLabMobileNetV2,
        ("stem.", "blocks.1.depthwise.", "image_pooling.", "aspp0.", "concat_projection."),
    ),
)


def load_checkpoint(source: str | os.PathLike[str] | Mapping[str, Any]) -> SegmentationModel:
    """Builds the model that a checkpoint belongs to and loads its weights, every one of them.

    Args:
        source: file of torch.save (read with weights_only=True) or of safetensors, or a state dict.
            One level of wrapping ("state_dict", "model", ...) and the prefixes of DDP and
            torch.compile are removed.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, damaged, of no known family, or has missing, unused
            or misshapen tensors; the message names the file and all of them.
    """
    if isinstance(source, Mapping):
        return _build("the state dict", source)
    path = Path(source)
    return _build(str(path), read_tensors(path))


def _build(origin: str, content: Any) -> SegmentationModel:
    state_dict = unwrap(origin, content)
    family = _recognise(origin, state_dict)
    with torch.device("meta"):
        standard = family.model().state_dict()
    _check_names(origin, family, standard, state_dict)
    try:
        with torch.device("meta"):
            model = family.model(**family.model.arguments(state_dict))
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"{origin}: the shapes of its tensors fit no {family.name} ({error})"
        ) from error
    _check_shapes(origin, family, model.state_dict(), state_dict)
    model.to_empty(device="cpu").float().load_state_dict(state_dict)
    return model.eval()


def _recognise(origin: str, state_dict: StateDict) -> Family:
    for family in FAMILIES:
        if all(any(k.startswith(prefix) for k in state_dict) for prefix in family.signature):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(
        f"{origin}: of no known family ({known}); it has {len(state_dict)} tensors, the first are "
        + ", ".join(list(state_dict)[:3])
    )


def _check_names(origin: str, family: Family, expected: StateDict, state_dict: StateDict) -> None:
    problems = []
    if missing := [key for key in expected if key not in state_dict]:
        problems.append(f"missing: {', '.join(missing)}")
    if unused := [key for key in state_dict if key not in expected]:
        problems.append(f"unused: {', '.join(unused)}")
    if problems:
        raise ValueError(f"{origin}: does not fit {family.name}; {'; '.join(problems)}")


def _check_shapes(origin: str, family: Family, expected: StateDict, state_dict: StateDict) -> None:
    wrong = [
        f"{key} {tuple(state_dict[key].shape)} (expected {tuple(value.shape)})"
        for key, value in expected.items()
        if state_dict[key].shape != value.shape
    ]
    if wrong:
        raise ValueError(f"{origin}: does not fit {family.name}; shapes: {', '.join(wrong)}")
