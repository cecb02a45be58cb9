"""From the content of a weights file to a model that has the weights."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from .._schema import shown
from .tensor_files import read_tensors

__all__ = ["StateDict", "fill", "plain_name", "read_tensors", "unwrap", "warn_dropped"]

StateDict = dict[str, torch.Tensor]

# Names under which training programs keep the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
_DEEPEST_MODEL = 8  # modules around a model
_LONGEST_NAME = 1000
# Names of modules that wrap others: of DDP only as the first, since it is an ordinary word; of
# torch.compile, FSDP and activation checkpointing anywhere.
_WRAPPED = re.compile(
    r"^(?:module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


def unwrap(
    origin: str, content: Any, known: Callable[[StateDict], bool] | None = None
) -> StateDict:
    """The state dict in a checkpoint, without what training programs put around it.

    Args:
        origin: what messages call the checkpoint.
        known: tells whether a state dict has the names of a model. If the full names do not fit,
            the submodule whose names fit is taken, such as "model." of a LightningModule.

    Raises:
        ValueError: there is no state dict, or there are several models in it.

    Warns:
        UserWarning: names tensors beside the model, such as those of a loss or a metric, that are
            dropped.
    """
    if isinstance(content, Mapping):
        for name in _WRAPPERS:
            if isinstance(content.get(name), Mapping):
                content = content[name]
                break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{origin}: holds no state dict")
    state_dict: StateDict = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{origin}: holds no state dict (the entry {shown(key)} is "
                f"a {type(value).__name__}, expected tensors only)"
            )
        if len(key) > _LONGEST_NAME:
            raise ValueError(
                f"{origin}: the name of a tensor has {len(key)} characters ({shown(key)}), "
                f"expected at most {_LONGEST_NAME}"
            )
        name = plain_name(key)
        if name in state_dict:
            raise ValueError(f"{origin}: two tensors are called {name}, one of them as {key}")
        state_dict[name] = value
    return state_dict if known is None else _inner_model(origin, state_dict, known)


def plain_name(key: str) -> str:
    """A tensor's name without those of DDP, torch.compile, FSDP and activation checkpointing."""
    while (shorter := _WRAPPED.sub("", key)) != key:
        key = shorter
    return key


def _inner_model(
    origin: str, state_dict: StateDict, known: Callable[[StateDict], bool]
) -> StateDict:
    """The tensors of the only known model inside, or all tensors if none is known."""
    found = list(_known_prefixes(state_dict, known))
    if len(found) > 1:
        raise ValueError(
            f"{origin}: holds {len(found)} models, under {', '.join(found)}: "
            "pass the state dict of one of them"
        )
    prefix = found[0] if found else ""
    if beside := [key for key in state_dict if not key.startswith(prefix)]:
        warnings.warn(
            f"{origin}: the model's tensors begin with {prefix!r}; {len(beside)} others are "
            f"dropped: {', '.join(beside)}",
            stacklevel=4,
        )
    return {
        plain_name(key.removeprefix(prefix)): value
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }


def _known_prefixes(
    state_dict: StateDict, known: Callable[[StateDict], bool], prefix: str = ""
) -> Iterator[str]:
    """Outermost prefixes under which the names are those of a known model."""
    if known({plain_name(key): value for key, value in state_dict.items()}):
        yield prefix
        return
    if prefix.count(".") >= _DEEPEST_MODEL:
        return
    inside: dict[str, StateDict] = {}
    for key, value in state_dict.items():
        child, dot, rest = key.partition(".")
        if dot:
            inside.setdefault(child, {})[rest] = value
    for child, tensors in inside.items():
        yield from _known_prefixes(tensors, known, f"{prefix}{child}.")


Model = TypeVar("Model", bound=nn.Module)


def fill(origin: str, name: str, model: Model, state_dict: StateDict) -> Model:
    """Gives a model on the meta device its weights, every one of them.

    Tensors that the model's `unused_keys`, if it has that, says it never uses are dropped with a
    warning.

    Args:
        origin, name: what messages call the checkpoint and the model.

    Returns:
        The model in eval mode, float32, on the CPU; it shares no memory with state_dict.

    Raises:
        ValueError: missing, unused or misshapen tensors; the message names all of them.
    """
    dropped: list[str] = getattr(model, "unused_keys", lambda _: [])(state_dict)
    warn_dropped(dropped)
    state_dict = {key: value for key, value in state_dict.items() if key not in set(dropped)}
    expected = model.state_dict()
    problems = []
    if missing := [key for key in expected if key not in state_dict]:
        problems.append(f"missing: {', '.join(missing)}")
    if unused := [key for key in state_dict if key not in expected]:
        problems.append(f"unused: {', '.join(unused)}")
    misshapen = [
        f"{key} {tuple(state_dict[key].shape)} (expected {tuple(value.shape)})"
        for key, value in expected.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    if misshapen:
        problems.append(f"shapes: {', '.join(misshapen)}")
    whole = [
        f"{key} is {str(state_dict[key].dtype).removeprefix('torch.')}"
        for key, value in expected.items()
        if key in state_dict and value.is_floating_point() > state_dict[key].is_floating_point()
    ]
    if whole:
        problems.append(f"not floating point: {', '.join(whole)}")
    if problems:
        raise ValueError(f"{origin}: does not fit {name}; {'; '.join(problems)}")
    # Buffers that no file holds are there already.
    model._apply(lambda t: torch.empty_like(t, device="cpu") if t.is_meta else t)
    model.float().load_state_dict(state_dict)
    return model.eval()


def warn_dropped(keys: list[str]) -> None:
    """Warns of tensors of a checkpoint that are not loaded."""
    if keys:
        # encoder.layer4.0.conv1.weight -> encoder.layer4
        stages = dict.fromkeys(re.sub(r"(?<=\d)\.\d+\..*|\.\w+$", "", key) for key in keys)
        warnings.warn(
            f"{len(keys)} tensors belong to parts of the encoder that this model never uses, and "
            f"are dropped: {', '.join(f'{stage}.*' for stage in stages)}",
            stacklevel=3,
        )
