"""The machine of a benchmark, and its ceilings, measured in the same run."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from .. import _native
from .._version import __version__
from .timing import Variant, time_interleaved

COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
MATMUL_SIZE = 8192
CONV_CHANNELS, CONV_SIZE = 512, 64


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """The fastest copy and the fastest arithmetic seen.

    Attributes:
        copy_bytes_per_s: a large copy, bytes read plus bytes written.
        flops_per_s: CPU: oneDNN's 3x3 convolution of 512 channels in float32 (a better ceiling than
            a matrix product, which not every machine runs at full rate); GPU: 8192^3 in bfloat16.
    """

    copy_bytes_per_s: float
    flops_per_s: float

    def best(self, other: Ceilings) -> Ceilings:
        """Takes the larger of two measurements, before and after a run, number by number."""
        return Ceilings(
            max(self.copy_bytes_per_s, other.copy_bytes_per_s),
            max(self.flops_per_s, other.flops_per_s),
        )


@torch.no_grad()
def measure_ceilings(device: str, budget_s: float = 1.0) -> Ceilings:
    """Measures both ceilings; the minimum time counts, since a ceiling is what is reachable."""
    size = COPY_BYTES[device]
    source = torch.randint(-128, 128, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    if device == "cuda":
        a, b = (
            torch.randn(MATMUL_SIZE, MATMUL_SIZE, dtype=torch.bfloat16, device=device)
            for _ in range(2)
        )
        flops = 2 * MATMUL_SIZE**3
        compute = Variant("compute", lambda _: a @ b)
    else:
        maps = torch.randn(1, CONV_CHANNELS, CONV_SIZE, CONV_SIZE)
        maps = maps.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(CONV_CHANNELS, CONV_CHANNELS, 3, 3)
        weight = weight.contiguous(memory_format=torch.channels_last)
        flops = 2 * 9 * CONV_CHANNELS**2 * CONV_SIZE**2
        compute = Variant("compute", lambda _: torch.nn.functional.conv2d(maps, weight, padding=1))
    copy = Variant("copy", lambda _: target.copy_(source))
    timings = time_interleaved([copy, compute], device=device, budget_s=budget_s, min_rounds=3)
    return Ceilings(
        copy_bytes_per_s=2 * size / min(timings["copy"].seconds),
        flops_per_s=flops / min(timings["compute"].seconds),
    )


def describe_machine(device: str) -> dict[str, Any]:
    """Names and versions that a result depends on, ready for JSON."""
    description: dict[str, Any] = {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "fastseg": __version__,
        "revision": _git_revision(),
        "native_core": native_core(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if device == "cuda":
        description |= {
            "driver": _nvidia_driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "capability": ".".join(str(n) for n in torch.cuda.get_device_capability()),
        }
    return description


def native_core() -> str:
    """The CPU level the native core uses, or why it cannot be loaded."""
    if _native._C is None or _native.load_error is not None:
        return f"not loaded: {_native.load_error}"
    cuda = "with" if _native.has_cuda() else "without"
    return f"{_native._C.cpu_level().name}, {cuda} CUDA kernels"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(module: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The git revision of this package's checkout, "-dirty" if files differ; None without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    return _output(["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"])


def _nvidia_driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    output = _output(query)
    return output.splitlines()[0] if output else None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
