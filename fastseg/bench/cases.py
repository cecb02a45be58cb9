"""Benchmark cases: the workloads of every op's samples.py, by dtype and direction."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterable

import torch

from .. import ops
from ..testing import OpSamples, Workload

# No float16 on a CPU: PyTorch has no fast kernels for it there, so ratios would mean nothing.
DTYPES = {
    "cpu": (torch.float32, torch.bfloat16),
    "cuda": (torch.bfloat16, torch.float32, torch.float16),
}
# The forward into the caller's buffer, for ops whose peer can do that too.
FORWARD_OUT = "forward out="


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the results: an op on one workload in one dtype and direction."""

    op: str
    samples: OpSamples
    workload: Workload
    dtype: torch.dtype
    direction: str
    device: str

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.op} {self.workload.name} {self.dtype_name} {self.direction}"


def as_word(case: object) -> str:
    """A case's name as one word of pytest's -k: no spaces, nor anything else that ends a word."""
    return re.sub(r"[^\w+.:/]+", "-", str(case)).strip("-")


def all_samples() -> dict[str, OpSamples]:
    """Name -> OpSamples of every op that has a samples module."""
    found = {}
    for module in pkgutil.iter_modules(ops.__path__):
        if module.ispkg and importlib.util.find_spec(f"{ops.__name__}.{module.name}.samples"):
            found[module.name] = load_samples(module.name)
    return found


def load_samples(op: str) -> OpSamples:
    """The OpSamples of one op."""
    return importlib.import_module(f"{ops.__name__}.{op}.samples").SAMPLES


def make_cases(
    op: str,
    samples: OpSamples,
    device: str,
    *,
    dtypes: Iterable[torch.dtype] | None = None,
    quick: bool = False,
) -> list[Case]:
    """The cases of one op.

    Args:
        op: its name.
        samples: its OpSamples.
        device: "cpu" or "cuda": chooses the workloads too.
        dtypes: default: all of DTYPES[device].
        quick: only the first workload, the first dtype (unless dtypes says otherwise), and not the
            plain forward where another direction holds it.
    """
    workloads = samples.gpu_workloads if device == "cuda" else samples.cpu_workloads
    chosen = tuple(dtypes) if dtypes is not None else DTYPES[device][: 1 if quick else None]
    return [
        Case(op, samples, workload, dtype, direction, device)
        for workload in workloads[: 1 if quick else None]
        for dtype in chosen
        for direction in _directions(samples, workload, quick)
    ]


def _directions(samples: OpSamples, workload: Workload, quick: bool) -> tuple[str, ...]:
    directions = workload.directions
    if samples.peer_out is not None and "forward" in directions:
        directions = (FORWARD_OUT, *directions)
    if quick and any(d != "forward" and "forward" in d for d in directions):
        return tuple(d for d in directions if d != "forward")
    return directions
