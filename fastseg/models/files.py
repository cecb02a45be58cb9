"""Reading files of weights, and filling models with them."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZipFile

import torch
from torch import nn

StateDict = dict[str, torch.Tensor]

# Names under which training programs keep the weights.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
# Names of modules that wrap others: of DDP only as the first, since it is an ordinary word; of
# torch.compile, FSDP and activation checkpointing anywhere.
_WRAPPED = re.compile(
    r"^(?:module\.)+|(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)


def read_tensors(path: Path) -> Any:
    """The content of a checkpoint file, whatever its suffix.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or damaged.
    """
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors: the length of the header (8 bytes), then the header as JSON.
    if start[8:] == b"{":
        return _read_safetensors(path)
    damaged = None
    try:
        # torch.load ignores checksums and takes damaged numbers as they are.
        damaged = ZipFile(path).testzip() if start.startswith(b"PK") else None
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if start.startswith((b"PK", b"\x80")):
            raise ValueError(
                f"{path}: holds Python objects besides tensors, which are not loaded for safety "
                "(save model.state_dict() instead), or is damaged"
            ) from error
        raise ValueError(f"{path}: not a checkpoint of torch.save or safetensors") from error
    except Exception as error:  # damaged files raise nearly every type
        raise ValueError(
            f"{path}: truncated, damaged, or not a checkpoint of torch.save or safetensors"
        ) from error
    raise ValueError(f"{path}: damaged (the checksum of {damaged} is wrong)")


def _read_safetensors(path: Path) -> StateDict:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            f"{path}: reading safetensors needs the package: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or damaged safetensors file ({error})") from error


def unwrap(
    origin: str, content: Any, known: Callable[[StateDict], bool] | None = None
) -> StateDict:
    """The state dict in a checkpoint, without what training programs put around it.

    Args:
        origin: what messages call the checkpoint.
        known: whether a state dict has the names of a model. Where the names as they are do not,
            the module is looked for inside of which they do, such as "model." of a LightningModule.

    Raises:
        ValueError: there is no state dict, there are several models in it, or tensors beside the
            one that there is.
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
                f"{origin}: holds no state dict (the entry {key!r} is a {type(value).__name__}, "
                "expected tensors only)"
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
    """The tensors of the one model inside, or all of them where none is known."""
    found = list(_known_prefixes(state_dict, known))
    if len(found) > 1:
        raise ValueError(
            f"{origin}: holds {len(found)} models, under {', '.join(found)}: "
            "pass the state dict of one of them"
        )
    prefix = found[0] if found else ""
    if beside := [key for key in state_dict if not key.startswith(prefix)]:
        raise ValueError(
            f"{origin}: holds tensors beside those of the model, which begin with {prefix!r}: "
            f"{', '.join(beside)}; pass a state dict of the model's tensors alone"
        )
    return {plain_name(key.removeprefix(prefix)): value for key, value in state_dict.items()}


def _known_prefixes(
    state_dict: StateDict, known: Callable[[StateDict], bool], prefix: str = ""
) -> Iterator[str]:
    """Prefixes of names under which there is a known model, the outermost ones."""
    if known({plain_name(key): value for key, value in state_dict.items()}):
        yield prefix
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
    if problems:
        raise ValueError(f"{origin}: does not fit {name}; {'; '.join(problems)}")
    model.to_empty(device="cpu").float().load_state_dict(state_dict)
    return model.eval()


def warn_dropped(keys: list[str]) -> None:
    """Says which tensors of a checkpoint are not loaded, if any."""
    if keys:
        # encoder.layer4.0.conv1.weight -> encoder.layer4
        stages = dict.fromkeys(re.sub(r"(?<=\d)\.\d+\..*|\.\w+$", "", key) for key in keys)
        warnings.warn(
            f"{len(keys)} tensors belong to parts of the encoder that this model never uses, and "
            f"are dropped: {', '.join(f'{stage}.*' for stage in stages)}",
            stacklevel=3,
        )
