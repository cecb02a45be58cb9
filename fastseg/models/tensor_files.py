"""Reading files of tensors that others wrote: torch.save's and safetensors."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile

import torch

from .._files import in_its_place
from .._messages import one_line, shortened
from ..limits import limits
from . import pickle_scan

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PLAIN_FILE_PICKLES = 5  # before the tensors' bytes in what torch.save wrote until version 1.5
_FACTOR = 4  # tensors may take this many times the bytes that a file stores, and a bit
_UNPICKLED = (
    "holds Python objects besides tensors, which are not loaded for safety (save "
    "model.state_dict() instead), or is damaged"
)
_DAMAGED = "truncated, damaged, or not a checkpoint of torch.save or safetensors"
_RAISE = "the limit tensor_bytes can be raised (fastseg.use_limits, or fastseg --limit)"


def read_tensors(path: Path) -> Any:
    """The content of a checkpoint file, whatever its suffix.

    What the file costs in memory and time is known before it is spent: archives that unpack to
    far more than they are, tensors that repeat few stored values over a huge shape, and pickles
    that allocate or nest without need are refused.

    Returns:
        Plain values, containers and dense tensors on the CPU.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no checkpoint, damaged, or refused; in one line that names it.
    """
    with path.open("rb") as file:
        start = file.read(9)
    try:
        # safetensors: the length of the header (8 bytes), then the header as JSON.
        content: Any
        if start[8:] == b"{":
            content = _read_safetensors(path)
        elif start.startswith(_ZIP):
            content = _read_zip(path)
        elif start.startswith(_PICKLE):
            content = _read_pickles(path)
        else:
            what = "not a checkpoint of torch.save or safetensors"
            raise ValueError(what + in_its_place(path))
        _check_tensors(content)
        return content
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from error


def _read_zip(path: Path) -> Any:
    try:
        with ZipFile(path) as archive:
            _check_unpacked_size(path, archive)
            # torch.load ignores checksums and takes damaged numbers as they are.
            if damaged := archive.testzip():
                raise ValueError(f"damaged (the checksum of {damaged} is wrong)")
            for info in archive.infolist():
                if info.filename.endswith("/data.pkl"):
                    with archive.open(info) as file:
                        _scan(file)  # type: ignore[arg-type]
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(_DAMAGED) from error
    return _load(path)


def _check_unpacked_size(path: Path, archive: ZipFile) -> None:
    unpacked = sum(info.file_size for info in archive.infolist())
    stored = os.path.getsize(path)
    if unpacked > _FACTOR * stored + limits().tensor_bytes:
        raise ValueError(f"its {stored} bytes unpack to {unpacked}; {_RAISE}")


def _read_pickles(path: Path) -> Any:
    with path.open("rb") as file:
        for _ in range(_PLAIN_FILE_PICKLES):
            _scan(file)
    return _load(path)


def _scan(file: BinaryIO) -> None:
    try:
        pickle_scan.scan(file)
    except pickle_scan.Unwanted as error:
        raise ValueError(f"{_UNPICKLED} (it {error})") from error
    except Exception as error:  # the instructions of a damaged pickle mean anything
        raise ValueError(_DAMAGED) from error


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the format of old files
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_UNPICKLED) from error
    except Exception as error:  # damaged files raise nearly every type
        raise ValueError(_DAMAGED) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            "reading safetensors needs the package: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, and what torch says to its dtypes
        raise ValueError(f"truncated or damaged safetensors file ({shortened(error)})") from error


def _check_tensors(content: Any) -> None:
    """Refuses tensors that are not dense on the CPU, or take far more memory than is stored."""
    largest, largest_name = 0, ""
    dense = 0
    stored: dict[int, int] = {}
    seen = {id(content)}
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            what = _unlike_weights(value)
            if what:
                raise ValueError(f"{name or 'its content'} is {what}, expected a dense tensor")
            size = value.numel() * value.element_size()
            dense += size
            if size > largest:
                largest, largest_name = size, f"{name} of shape {tuple(value.shape)}"
            storage = value.untyped_storage()
            stored[storage.data_ptr()] = storage.nbytes()
            continue
        inside: Any = ()
        if isinstance(value, Mapping):
            inside = value.items()
        elif isinstance(value, list | tuple | set):
            inside = enumerate(value)
        for key, entry in inside:
            # Lists may hold millions of numbers, and each other.
            if isinstance(entry, torch.Tensor | Mapping | list | tuple) and id(entry) not in seen:
                seen.add(id(entry))
                key = str(key)[:200] if isinstance(key, str | int) else "..."
                waiting.append((f"{name}.{key}"[-200:] if name else key, entry))
    if dense > _FACTOR * sum(stored.values()) + limits().tensor_bytes:
        raise ValueError(
            f"its tensors take {dense} bytes, and it stores {sum(stored.values())}: the largest is "
            f"{largest_name}; {_RAISE}"
        )


def _unlike_weights(value: torch.Tensor) -> str:
    """What makes a tensor no weights; "" if nothing does."""
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"a {type(value).__name__}"
    if value.is_nested:
        return "a nested tensor"
    if value.layout is not torch.strided:
        return f"a tensor of layout {str(value.layout).removeprefix('torch.')}"
    if value.is_quantized or value.is_complex():
        return f"a tensor of dtype {str(value.dtype).removeprefix('torch.')}"
    if value.device.type != "cpu":
        return f"a tensor on the device {value.device}"
    return ""
