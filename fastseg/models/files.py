"""Reading files of weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

StateDict = dict[str, torch.Tensor]

# Names under which training programs keep the weights, and what they put before each key.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
_PREFIXES = ("module.", "_orig_mod.")


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


def unwrap(origin: str, content: Any) -> StateDict:
    """The state dict in a checkpoint, without what training programs put around it.

    Args:
        origin: what messages call the checkpoint.

    Raises:
        ValueError: there is none.
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
        for prefix in _PREFIXES:
            key = key.removeprefix(prefix)
        state_dict[key] = value
    return state_dict
