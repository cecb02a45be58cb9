"""Argument checks shared by the ops: each names the argument, what came and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_module(model: object) -> None:
    """`model` is a module."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, expected a torch.nn.Module")


def check_map(name: str, x: torch.Tensor, least_channels: int = 1) -> None:
    """`x` is a floating-point map [N, C, H, W] with at least one pixel and `least_channels`."""
    if x.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected 4 dimensions [N, C, H, W]")
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name} has dtype {x.dtype}, expected float32, bfloat16, float16 or float64"
        )
    if x.shape[1] < least_channels or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}: channels, height and width must be at least 1"
        )


def size_pair(size: int | Sequence[int]) -> list[int]:
    """The public argument `size`, one int for both axes or (height, width), as the ops take it."""
    pair = size if isinstance(size, (tuple, list)) else [size, size]
    if not all(is_integer(n) for n in pair):
        raise TypeError(f"size is {size!r}, expected an int or (height, width)")
    if any(isinstance(n, torch.Tensor) for n in pair):
        check_not_traced("a size that depends on the input")
    return list(pair)


def check_not_traced(what: str) -> None:
    """Raises RuntimeError where torch.jit.trace would make a constant of `what`."""
    if torch.jit.is_tracing():
        raise RuntimeError(
            f"torch.jit.trace makes a constant of {what}, and other inputs would have wrong "
            "results: use torch.export.export with dynamic_shapes, or torch.compile"
        )


def is_integer(n: object) -> bool:
    """Whether operator.index takes `n`: NumPy's integers too, but no float."""
    if isinstance(n, (int, torch.SymInt)):
        return True
    return hasattr(n, "__index__") and getattr(n, "ndim", 0) == 0


def check_size(size: list[int]) -> None:
    """`size` is [height, width], both positive."""
    if len(size) != 2:
        raise ValueError(f"size has {len(size)} numbers, expected 2 (height, width)")
    if size[0] <= 0 or size[1] <= 0:
        raise ValueError(f"size is {tuple(size)}, expected height and width of at least 1")


def check_same_device(name: str, x: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """`x` and `other` lie on one device."""
    if x.device != other.device:
        raise ValueError(
            f"{name} is on {x.device} but {other_name} is on {other.device}: use one device"
        )


def check_shape(name: str, x: torch.Tensor, expected: tuple[int, ...], why: str) -> None:
    """`x` has exactly this shape; `why` says where the expectation comes from."""
    if x.dim() != len(expected) or any(a != b for a, b in zip(x.shape, expected, strict=True)):
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {tuple(expected)} ({why})")


def check_written(name: str, out: torch.Tensor, args: Sequence[object]) -> None:
    """`out` has each of its elements once, and none in common with another tensor of `args`."""
    if not out.is_contiguous() and any(
        n > 1 and step == 0 for n, step in zip(out.shape, out.stride(), strict=True)
    ):
        raise ValueError(
            f"{name} has strides {out.stride()}: elements share memory, use a tensor of its own"
        )
    begin, end = _memory(out)
    seen = 0
    for x in args:
        if x is out:
            seen += 1
            if seen > 1:
                raise ValueError(f"{name} is an input as well, use a tensor of its own")
        elif isinstance(x, torch.Tensor):
            first, last = _memory(x)
            if x.device == out.device and begin < last and first < end:
                raise ValueError(f"{name} shares memory with an input, use a tensor of its own")


def _memory(x: torch.Tensor) -> tuple[int, int]:
    """Addresses of the first byte of x and of that after its last; (0, 0) if it is empty."""
    if x.numel() == 0:
        return 0, 0
    if x.is_contiguous():
        return x.data_ptr(), x.data_ptr() + x.nbytes
    reach = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (reach + 1) * x.element_size()


LABEL_DTYPES = (torch.int64, torch.int32, torch.uint8)


def check_target(target: torch.Tensor, logits: torch.Tensor) -> None:
    """`target` holds class indices [N, H, W], with the batch size and device of `logits`."""
    if target.is_floating_point() or target.is_complex():
        raise TypeError(
            f"target has dtype {target.dtype}, expected class indices (int64, int32 or uint8): "
            "class probabilities are not supported"
        )
    if target.dtype not in LABEL_DTYPES:
        raise TypeError(f"target has dtype {target.dtype}, expected int64, int32 or uint8")
    if target.dim() != 3:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected 3 dimensions [N, H, W]")
    if target.shape[0] != logits.shape[0]:
        raise ValueError(
            f"target has batch size {target.shape[0]}, expected {logits.shape[0]} as logits"
        )
    if target.shape[1] == 0 or target.shape[2] == 0:
        raise ValueError(
            f"target has shape {tuple(target.shape)}: height and width must be at least 1"
        )
    check_same_device("target", target, "logits", logits)


def bad_target(target: torch.Tensor, index: int, classes: int, ignore_index: int) -> ValueError:
    """The error for a target whose element at the flat `index` is no class."""
    where: tuple[int, ...] = ()
    for size in reversed(target.shape):
        index, place = divmod(index, size)
        where = (place, *where)
    return ValueError(
        f"target is {int(target[where])} at {where}, allowed are 0 to {classes - 1} "
        f"and ignore_index ({ignore_index})"
    )


def first_bad_target(target: torch.Tensor, classes: int, ignore_index: int) -> int:
    """Flat index of the first element that is neither a class nor ignore_index, or -1."""
    wide = target.long().flatten()
    bad = ((wide < 0) | (wide >= classes)) & (wide != ignore_index)
    return int(bad.byte().argmax()) if bool(bad.any()) else -1
