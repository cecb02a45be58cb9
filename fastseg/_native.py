"""The native core, loaded once, and the small conversions every native backend needs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from ._version import __version__

_C: ModuleType | None = None
load_error: str | None = None
try:
    _C = importlib.import_module("fastseg._C")
    if _C.version != __version__:
        load_error = (
            f"fastseg._C was built for version {_C.version}, this is {__version__}: "
            "reinstall with 'pip install .'"
        )
except ImportError as error:
    load_error = f"fastseg._C cannot be loaded ({error}): reinstall with 'pip install .'"

# The codes of csrc/common/dtype.h.
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}

# The codes of csrc/common/label.h.
LABEL_CODES = {torch.uint8: 0, torch.int32: 1, torch.int64: 2}


def core(name: str) -> Any:
    """The part of the native core that holds the functions of one op.

    Raises:
        RuntimeError: the core could not be loaded.
    """
    if _C is None:
        raise RuntimeError(load_error)
    return getattr(_C, name)


def address(x: torch.Tensor | None) -> int:
    """The address of x's first value; 0 for None, which kernels take for "not there"."""
    return 0 if x is None else x.data_ptr()


def upsampled_logits(
    logits: torch.Tensor, size: Sequence[int], align_corners: bool
) -> dict[str, Any]:
    """The fields of an op's Shape for strided logits [N, C, H, W] and the size they grow to."""
    batch, classes, height, width = logits.shape
    strides = logits.stride()
    return {
        "batch": batch,
        "classes": classes,
        "in_h": height,
        "in_w": width,
        "out_h": size[0],
        "out_w": size[1],
        "align_corners": align_corners,
        "stride_n": strides[0],
        "stride_c": strides[1],
        "stride_h": strides[2],
        "stride_w": strides[3],
    }


def has_cuda() -> bool:
    """Whether the native core was built with CUDA kernels (not whether a GPU is there)."""
    return _C is not None and bool(_C.with_cuda)


def unsupported_reason(x: torch.Tensor, *, cuda: bool) -> str | None:
    """Why the native core cannot take `x` at all; `cuda`: whether this op has CUDA kernels."""
    if load_error is not None:
        return load_error
    if x.dtype not in DTYPE_CODES:
        return f"dtype {x.dtype} (supported: float32, bfloat16, float16, float64)"
    if x.device.type == "cuda":
        if not cuda:
            return "this op has no CUDA kernel yet"
        if not has_cuda():
            return "fastseg._C was built without CUDA (FASTSEG_CUDA=ON needs nvcc)"
    elif x.device.type != "cpu":
        return f"device {x.device} (supported: cpu, cuda)"
    return None


def dtype_code(x: torch.Tensor) -> int:
    """The native core's code of x.dtype."""
    return DTYPE_CODES[x.dtype]


def on_cuda(x: torch.Tensor) -> bool:
    """Whether x goes through CUDA kernels (the tests run those on CPU tensors, too)."""
    return x.is_cuda


def stream(x: torch.Tensor) -> int:
    """The current CUDA stream of x's device, as the integer that launchers take."""
    return torch.cuda.current_stream(x.device).cuda_stream


_MAX_ELEMENTS = 1 << 47  # the bytes that a process can address


def check_elements(x: torch.Tensor) -> None:
    """Raises MemoryError where `x` is expanded to more elements than any memory holds.

    Up to that number, the kernels' products of sizes stay within 64 bits.
    """
    if x.numel() > _MAX_ELEMENTS:
        raise MemoryError(
            f"a tensor of shape {tuple(x.shape)} has {x.numel()} elements, at most {_MAX_ELEMENTS} "
            "are possible"
        )


def launch(core: ModuleType, function: str, x: torch.Tensor, *args: Any, **keywords: Any) -> Any:
    """Calls core.cpu_<function>, or core.cuda_<function> on the device and the stream of x.

    The last positional argument, after `args`, is the number of threads or the stream.
    """
    check_elements(x)
    if on_cuda(x):
        with torch.cuda.device_of(x):
            return getattr(core, f"cuda_{function}")(*args, stream(x), **keywords)
    return getattr(core, f"cpu_{function}")(*args, torch.get_num_threads(), **keywords)


# From this size on glibc gives every tensor a mapping of its own, returned when the tensor dies.
_OWN_MAPPING_BYTES = 1 << 25


def with_huge_pages(x: torch.Tensor) -> torch.Tensor:
    """x, just allocated and about to be written: on the CPU, if large, in huge pages.

    Mapping a large tensor in 4 KiB pages takes longer than writing it (66 MB: 40 ms against 10).
    """
    if x.device.type == "cpu" and x.nbytes >= _OWN_MAPPING_BYTES and _C is not None:
        _C.advise_huge_pages(x.data_ptr(), x.nbytes)
    return x


def new_scratch(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """scratch(*shape) where `like` is a float32 tensor on the CPU, else like.new_empty(shape)."""
    pooled = like.dtype is torch.float32 and like.device.type == "cpu"
    return scratch(*shape) if pooled and type(like) is torch.Tensor else like.new_empty(shape)


def scratch(*shape: int) -> torch.Tensor:
    """An uninitialised float32 tensor on the CPU, in memory of the native core's pool.

    When the last tensor or array over it dies, the pool keeps the memory for the next one
    (fastseg.crf.limit_workspaces says how much). Without the core, an ordinary tensor.
    """
    count = math.prod(shape)
    if _C is None or count == 0:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    return torch.frombuffer(_C.ScratchBytes(4 * count), dtype=torch.float32).view(shape)
