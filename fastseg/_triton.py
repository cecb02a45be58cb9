"""What every Triton backend asks of a tensor's device. Imports triton nowhere."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch


def unsupported_reason(x: torch.Tensor) -> str | None:
    """Why Triton's kernels cannot run on x's device, or None."""
    if not _is_installed():
        return "triton is not installed (pip install triton)"
    if x.device.type == "cpu":
        if os.environ.get("TRITON_INTERPRET") != "1":
            return "x is on the CPU (TRITON_INTERPRET=1 runs the kernels there, for tests)"
        return None
    if x.device.type != "cuda":
        return f"device {x.device} (supported: cuda)"
    major, minor = capability(x.device)
    if major < 8:
        return f"compute capability {major}.{minor} (supported: 8.0 and newer)"
    return None


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Of a CUDA device."""
    return torch.cuda.get_device_capability(device)
