"""Where Triton's dense convolution was measured to be faster than cuDNN's: measured.json.

The file has an entry for each GPU: what it was measured with, and rows of one convolution each.
`tools/measure_dense_conv.py` writes it on the GPU that it runs on. Sizes that no row comes near run
on cuDNN, and so does everything on a GPU without an entry.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import torch

from .triton_tiles import Maps, Taps, tap_visits

FILE = Path(__file__).with_name("measured.json")

# A row speaks for sizes up to a factor of sqrt(2), and for shares of taps up to a tenth away.
_SIZE_REACH = 0.5
_SHARE_REACH = 0.1


@functools.cache
def rows_of(gpu: str) -> list[dict[str, Any]]:
    """The rows measured on the GPU of this name, perhaps none."""
    entry = json.loads(FILE.read_text())["gpus"].get(gpu)
    return [] if entry is None else entry["rows"]


def description(
    function: str,
    shape: tuple[int, ...],
    kind: str,
    out_channels: int,
    out_size: tuple[int, int],
    taps: tuple[Taps, ...],
) -> dict[str, Any]:
    """What a row is compared by.

    Args:
        function: "forward", "backward" or "branches".
        shape: of x, [N, C_in, H, W].
        kind: name of its dtype; "tf32" for float32 where torch allows it.
        out_channels: of one branch.
        out_size: of the result.
        taps: of each branch.
    """
    maps = Maps(shape[0], (shape[2], shape[3]), out_size)
    pixels = shape[0] * out_size[0] * out_size[1]
    every = sum(t.count for t in taps)
    return {
        "function": function,
        "dtype": kind,
        "taps": every,
        "pixels": pixels,
        "in_channels": shape[1],
        "out_channels": out_channels,
        "live_share": round(tap_visits(taps, maps, (1, 1, 1)) / (every * pixels), 3),
    }


def _kind(dtype: torch.dtype) -> str:
    if dtype is torch.float32 and torch.backends.cudnn.allow_tf32:
        return "tf32"
    return str(dtype).removeprefix("torch.")


def prefers_triton(
    function: str,
    x: torch.Tensor,
    out_channels: int,
    out_size: tuple[int, int],
    taps: tuple[Taps, ...],
) -> bool:
    """Whether the nearest row that reaches the sizes of the map x says so."""
    rows = rows_of(_name(x.device))
    return bool(rows) and _says(
        _name(x.device), function, tuple(x.shape), _kind(x.dtype), out_channels, out_size, taps
    )


@functools.lru_cache(1024)
def _says(
    gpu: str,
    function: str,
    shape: tuple[int, ...],
    kind: str,
    out_channels: int,
    out_size: tuple[int, int],
    taps: tuple[Taps, ...],
) -> bool:
    rows = rows_of(gpu)
    wanted = description(function, shape, kind, out_channels, out_size, taps)
    near = [(d, i) for i, row in enumerate(rows) if (d := _distance(row, wanted)) <= 1.0]
    if not near:
        return False
    row = rows[min(near)[1]]
    return bool(row["triton_us"] < row["cudnn_us"])


def _distance(row: dict[str, Any], wanted: dict[str, Any]) -> float:
    """At most 1 where the row speaks for what is wanted."""
    if any(row[key] != wanted[key] for key in ("function", "dtype", "taps")):
        return math.inf
    sizes = ("pixels", "in_channels", "out_channels")
    apart = [abs(math.log2(row[key] / wanted[key])) / _SIZE_REACH for key in sizes]
    share = abs(row["live_share"] - wanted["live_share"]) / _SHARE_REACH
    return max(*apart, share)


@functools.cache
def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)
