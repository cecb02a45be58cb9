"""The --device option."""

from __future__ import annotations

import torch

from .console import fail


def device_named(name: str) -> torch.device:
    """Returns the device that --device names; ends the command if there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        fail(f"--device is {name!r}, allowed are auto, cpu, cuda and cuda:N")
    if device.type not in ("cpu", "cuda"):
        fail(f"--device is {name!r}, allowed are auto, cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        fail(f"--device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
    return device
