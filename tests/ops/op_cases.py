"""Every op of the registry as parameters for generic tests, and how to run one on its samples."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_samples import CUDA_SAMPLES
from torch.utils._python_dispatch import TorchDispatchMode

import fastseg
from fastseg import Backend, BackendUnavailable, _native, use_backend
from fastseg.registry import ALL_OPS, OpSpec
from fastseg.testing import ErrorSample, Maker, OpSamples, Sample

assert fastseg.ops  # the ops register themselves when they are imported

ROOT = Path(__file__).resolve().parents[2]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICE = "cpu"  # where inputs() puts its tensors; tests/gpu changes it
CPU_BACKENDS = (Backend.NATIVE, Backend.TORCH, Backend.REFERENCE)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A backend, and for the native one the instruction set that it is held to."""

    backend: Backend
    level: str | None = None

    def __str__(self) -> str:
        return self.backend.value + (f"-{self.level}" if self.level else "")

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Forces it; skips the test where it cannot run."""
        core = _native._C
        before = core.cpu_level()
        try:
            if self.level:
                core.set_cpu_level(getattr(core.CpuLevel, self.level))
            with use_backend(self.backend):
                yield
        except BackendUnavailable as error:
            pytest.skip(str(error))
        finally:
            core.set_cpu_level(before)


def samples_of(op: OpSpec) -> OpSamples:
    return importlib.import_module(f"fastseg.ops.{op.name}.samples").SAMPLES


def variants(op: OpSpec) -> list[Variant]:
    """Each backend for CPU tensors; the native one at every instruction set of this processor."""
    core = _native._C
    levels = [n for n in core.CpuLevel.__members__ if is_level_available(n)]
    found = [Variant(b) for b in CPU_BACKENDS if b in op.backends and b is not Backend.NATIVE]
    if Backend.NATIVE in op.backends:
        found = [Variant(Backend.NATIVE, level) for level in levels] + found
    return found


def has_cuda_twin(op: OpSpec) -> bool:
    """Whether csrc has CUDA kernels of this op's name."""
    return any((ROOT / "csrc" / op.name).glob("*_cuda.cu"))


def is_level_available(name: str) -> bool:
    core = _native._C
    return int(getattr(core.CpuLevel, name)) <= int(core.best_cpu_level())


# Inputs and calls.


def inputs(sample: Sample | ErrorSample, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return sample.inputs(Maker(dtype, DEVICE))


def tensors(values: dict[str, Any]) -> list[torch.Tensor]:
    return [v for v in values.values() if isinstance(v, torch.Tensor)]


def cast(values: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Floating-point tensors in another dtype, in the same memory layout."""
    return {
        k: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in values.items()
    }


def on_a_grid(values: dict[str, Any]) -> dict[str, Any]:
    """float64 tensors, in place, as multiples of 1/4096 of a power of two near their largest value.

    Products and sums of such numbers are exact in float64, whatever their order. PyTorch's float64
    gradient of a long convolution is otherwise off by more than ours is, and no truth for it."""
    for v in tensors(values):
        largest = v.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if v.numel() else 0.0
        if v.dtype is torch.float64 and largest > 0.0:
            step = 2.0 ** (math.frexp(largest)[1] - 12)
            v.copy_((v / step).round() * step)
    return values


def forward_and_gradients(
    function: Callable[..., torch.Tensor],
    values: dict[str, Any],
    names: tuple[str, ...],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The result, and the gradients of <result, g> to the arguments `names` (those that are not
    None); the random g is the same for results of the same shape."""
    names = tuple(n for n in names if values.get(n) is not None)
    leaves = {n: values[n].detach() for n in names}
    for leaf in leaves.values():
        leaf.requires_grad_(leaf.is_floating_point())  # others are for the op to refuse
    result = function(**{**values, **leaves})
    if not names:
        return result, {}
    # Drawn in bfloat16, so that it is the same number in every dtype.
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    grad = torch.empty_like(result).copy_(grad.bfloat16())
    return result, dict(zip(names, torch.autograd.grad(result, leaves.values(), grad), strict=True))


class RecordedCalls(TorchDispatchMode):
    """Collects the calls of registered ops: whatever a public function and its gradients run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "fastseg":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def recorded_calls(op: OpSpec, sample: Sample) -> list[tuple[Any, tuple[Any, ...]]]:
    """The ops that `sample` runs, forward and backward, with their arguments."""
    with RecordedCalls() as mode:
        forward_and_gradients(
            samples_of(op).function, inputs(sample), samples_of(op).differentiable
        )
    return mode.calls


# Parameter lists.

_OPS = sorted(ALL_OPS.values(), key=lambda op: op.name)
each_op = pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in _OPS])


def _id(op: OpSpec, *parts: Any) -> str:
    return "-".join([op.name, *(str(p).removeprefix("torch.") for p in parts)])


def _cases(choose: Callable[[OpSpec], list[Sample]]) -> Any:
    cases = [pytest.param(op, s, id=_id(op, s.why)) for op in _OPS for s in choose(op)]
    return pytest.mark.parametrize(("op", "sample"), cases)


def _filled(op: OpSpec) -> list[Sample]:
    """The samples with something in them."""
    return [s for s in samples_of(op).samples if min(map(torch.numel, tensors(inputs(s)))) > 0]


def _few(op: OpSpec) -> list[Sample]:
    """For slow tests: one small sample of each memory layout."""

    def size(sample: Sample) -> int:
        return sum(map(torch.numel, tensors(inputs(sample))))

    chosen: dict[tuple[bool, ...], Sample] = {}
    for sample in sorted(_filled(op), key=size):
        first = max(tensors(inputs(sample)), key=torch.Tensor.dim)
        ambiguous = first.dim() == 4 and 1 in (first.shape[1], first.shape[2] * first.shape[3])
        if first.numel() >= 50 and not ambiguous:
            last = first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last)
            chosen.setdefault((first.is_contiguous(), last), sample)
    return list(chosen.values())


def _cuda_samples(op: OpSpec) -> list[Sample]:
    """Of an op with CUDA kernels: its filled samples, and those for the paths of these kernels."""
    return [*_filled(op), *CUDA_SAMPLES.get(op.name, ())] if has_cuda_twin(op) else []


each_sample = _cases(lambda op: list(samples_of(op).samples))
each_filled_sample = _cases(_filled)
each_differentiable_sample = _cases(lambda op: _filled(op) if samples_of(op).differentiable else [])
each_linear_sample = _cases(lambda op: _filled(op) if samples_of(op).linear_in else [])
few_samples = _cases(_few)
each_labelling_sample = _cases(lambda op: [] if samples_of(op).differentiable else _filled(op))
first_samples = _cases(lambda op: _few(op)[:1])
each_cuda_sample = _cases(_cuda_samples)
few_cuda_samples = _cases(lambda op: _few(op) if has_cuda_twin(op) else [])
each_variant_dtype_sample = pytest.mark.parametrize(
    ("op", "variant", "dtype", "sample"),
    [
        pytest.param(op, variant, dtype, sample, id=_id(op, variant, dtype, sample.why))
        for op in _OPS
        for variant in variants(op)
        for dtype in DTYPES
        for sample in samples_of(op).samples
    ],
)
each_error = pytest.mark.parametrize(
    ("op", "sample"),
    [pytest.param(op, e, id=_id(op, e.why)) for op in _OPS for e in samples_of(op).errors],
)
