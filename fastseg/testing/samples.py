"""The op table that drives generic tests and benchmarks: one OpSamples each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch


@dataclasses.dataclass
class Maker:
    """Makes random inputs of one dtype on one device, the same ones for the same seed.

    With `draw_there` they are drawn on the device: other numbers on each, and no copies, which for
    large inputs take longer than all the rest.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    seed: int = 0
    draw_there: bool = False

    def __post_init__(self) -> None:
        where = self.device if self.draw_there else "cpu"
        self._generator = torch.Generator(where).manual_seed(self.seed)

    def tensor(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Normal random numbers, contiguous."""
        g = self._generator
        x = torch.randn(shape, generator=g, dtype=torch.float64, device=g.device).mul_(scale)
        return x.to(self.device, self.dtype)

    def map(self, *shape: int, layout: str = "contiguous", scale: float = 1.0) -> torch.Tensor:
        """A map [N, C, H, W]; layout "contiguous", "channels_last" or "strided" (a transposed
        slice of something larger: dense in no format)."""
        if layout == "strided":
            n, c, h, w = shape
            return self.tensor(n, c, w + 2, 2 * h, scale=scale)[:, :, 1:-1, ::2].transpose(2, 3)
        x = self.tensor(*shape, scale=scale)
        if layout == "channels_last":
            return x.contiguous(memory_format=torch.channels_last)
        assert layout == "contiguous", layout
        return x

    def labels(
        self, *shape: int, classes: int, ignored: float = 0.0, ignore_index: int = -100
    ) -> torch.Tensor:
        """Class indices int64 of any shape, a share `ignored` of them ignore_index."""
        g = self._generator
        y = torch.randint(0, classes, shape, generator=g, device=g.device)
        drop = torch.rand(shape, generator=g, device=g.device) < ignored
        return y.masked_fill_(drop, ignore_index).to(self.device)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One input. `why`: what it covers that no other row does. `inputs(maker)`: keyword arguments
    of the public function and of the peer, made anew at each call."""

    why: str
    inputs: Callable[[Maker], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class ErrorSample:
    """Inputs that must raise `error` with a message matching the regular expression `match`.

    `from_values`: what is wrong is what a tensor holds, so the fake implementation cannot see it.
    """

    why: str
    inputs: Callable[[Maker], dict[str, Any]]
    error: type[Exception]
    match: str
    from_values: bool = False


@dataclasses.dataclass(frozen=True)
class Workload:
    """One benchmark case. `inputs(maker, memory_format)`: keyword arguments.

    `bytes(inputs)`: the fewest bytes the forward must move; `flops(inputs)`: multiply-adds count
    two. `directions`: "forward", "backward" (alone) and "forward+backward".
    """

    name: str
    inputs: Callable[[Maker, torch.memory_format], dict[str, Any]]
    bytes: Callable[[dict[str, Any]], int]
    flops: Callable[[dict[str, Any]], int]
    directions: tuple[str, ...] = ("forward", "forward+backward")


@dataclasses.dataclass(frozen=True)
class OpSamples:
    """All that generic tests and benchmarks need to know of an op.

    Attributes:
        function: the public function.
        peer: the PyTorch composition it replaces, with the same keyword arguments.
        differentiable: names of the tensor arguments with gradients.
        linear_in: the argument the op is linear in (adjoint test), or None.
        double_backward: whether gradients of gradients exist; if not, asking is a clear error.
        compare: for discrete results (labels, counts), which have no error to measure:
            compare(inputs, result) fails unless result is right. None: the error of the result is
            at most OpSpec.tolerance times that of the peer.
        cpu_workloads, gpu_workloads: benchmark cases; the first is that of `bench quick`.
        peer_out: the peer with one more argument out, for ops that take out too: benchmarked with
            the result's buffer kept by both sides.
        other_peers: name -> other ways to write the peer in PyTorch, benchmarked beside it.
    """

    function: Callable[..., Any]
    peer: Callable[..., Any]
    samples: tuple[Sample, ...]
    errors: tuple[ErrorSample, ...]
    differentiable: tuple[str, ...] = ()
    linear_in: str | None = None
    double_backward: bool = False
    compare: Callable[[dict[str, Any], torch.Tensor], None] | None = None
    cpu_workloads: tuple[Workload, ...] = ()
    gpu_workloads: tuple[Workload, ...] = ()
    peer_out: Callable[..., Any] | None = None
    other_peers: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
