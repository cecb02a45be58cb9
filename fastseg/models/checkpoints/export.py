"""Our models under the names of the libraries whose checkpoints we load."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ..base import SegmentationModel
from ..files import StateDict
from .family import Family


def exported(model: SegmentationModel, families: tuple[Family, ...]) -> StateDict:
    """The tensors of a model under a library's names.

    Args:
        model: whose checkpoint is asked for.
        families: of one name; the first that takes the model counts.

    Raises:
        ValueError: none takes it.
    """
    reasons = []
    for family in families:
        try:
            return _restored(model, family)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[0])


def _restored(model: SegmentationModel, family: Family) -> StateDict:
    origin = f"{family.name} from a {type(model).__name__}"
    own = model.state_dict()
    if type(model) is not family.model:
        raise ValueError(f"{origin}: it holds a {family.model.__name__}")
    result = family.restored(own)
    again = family.translated(result)
    if list(sorted(again)) != list(sorted(own)) or not all(
        again[name].shape == own[name].shape and torch.equal(again[name], own[name]) for name in own
    ):
        raise ValueError(f"{origin}: its tensors do not tell ours")
    if not family.recognises(result):
        raise ValueError(f"{origin}: its names would not be known for what they are")
    _check_arguments(origin, model, family.arguments(again))
    return result


def _check_arguments(origin: str, model: SegmentationModel, found: dict[str, Any]) -> None:
    """Raises ValueError where the library's model computes something else."""
    given = model._arguments
    defaults = inspect.signature(type(model).__init__).parameters
    for name, value in given.items():
        if name in ("encoder_name", "encoder_weights", "classes") or "dropout" in name:
            continue
        there = found.get(name, defaults[name].default)
        if name == "encoder_options":
            value, there = _computed(value), _computed(there)
        if _plain(value) != _plain(there):
            raise ValueError(f"{origin}: {name} is {value}, there {there}")


def _computed(options: Any) -> dict[str, Any]:
    """Options of an encoder without those that only training knows."""
    return {k: _plain(v) for k, v in (options or {}).items() if "drop" not in k}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
