"""Turns a case into callables: fastseg and each peer, in each layout, in the case's direction."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from .._private_torch import compile_in_this_process, tree_leaves
from ..testing import Maker
from .cases import FORWARD_OUT, Case
from .timing import Variant

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
OURS, EAGER, COMPILED = "fastseg", "eager", "compile"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One implementation in one layout. `result()` is everything to be checked, gradients too."""

    kind: str  # OURS, EAGER, COMPILED or the name of another peer
    layout: str
    inputs: dict[str, Any]
    variant: Variant
    result: Callable[[], Any]

    @property
    def label(self) -> str:
        return self.variant.label


class Problem:
    """The inputs of a case, and the candidates that solve it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        # Made once and shared by the candidates: random maps take longer to make than to resize.
        self._made: dict[str, dict[str, Any]] = {}
        self._upstream: dict[tuple[Any, ...], torch.Tensor] = {}

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Kind -> function, torch.compile aside."""
        samples = self.case.samples
        if self.case.direction == FORWARD_OUT:
            assert samples.peer_out is not None
            return {OURS: samples.function, EAGER: samples.peer_out}
        return {OURS: samples.function, EAGER: samples.peer, **samples.other_peers}

    def reference(self, *, exact: bool, layout: str = "NCHW") -> Candidate:
        """The peer without `out`; with `exact`, on the same inputs in float64."""
        direction = self.case.direction.removesuffix(FORWARD_OUT.removeprefix("forward"))
        plain = dataclasses.replace(self.case, direction=direction)
        problem = Problem(plain)
        problem._made, problem._upstream = self._made, self._upstream
        return problem.candidate(EAGER, plain.samples.peer, layout, exact=exact)

    def compiled(self, layout: str) -> Candidate:
        """The peer through torch.compile with its default settings."""
        return self.candidate(COMPILED, self._compiled, layout)

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        # Without a reset the ninth shape of one function would silently run in eager mode.
        compile_in_this_process()
        return torch.compile(self.functions()[EAGER], dynamic=False)

    def candidate(
        self, kind: str, function: Callable[..., Any], layout: str, *, exact: bool = False
    ) -> Candidate:
        """`function` on the inputs in `layout`, in the direction of the case."""
        inputs = self.inputs(layout, exact)
        label = f"{kind} {layout}"
        call = functools.partial(function, **inputs)
        if "backward" not in self.case.direction:
            forward = torch.no_grad()(call)
            return Candidate(kind, layout, inputs, Variant(label, lambda _: forward()), forward)

        gradients: list[torch.Tensor] = []
        leaves = [x for x in inputs.values() if isinstance(x, torch.Tensor) and x.requires_grad]

        def backward(result: Any) -> Any:
            outputs = tree_leaves(result)
            if not gradients:
                gradients.extend(self._output_gradients(outputs))
            return torch.autograd.grad(outputs, leaves, gradients)

        def forward_and_backward() -> Any:
            result = call()
            return result, backward(result)

        if self.case.direction == "backward":
            variant = Variant(label, backward, setup=call)
        else:
            variant = Variant(label, lambda _: backward(call()))
        return Candidate(kind, layout, inputs, variant, forward_and_backward)

    def inputs(self, layout: str, exact: bool = False) -> dict[str, Any]:
        """Keyword arguments in `layout`; the tensors share the memory of earlier calls."""
        case = self.case
        if layout not in self._made:
            make = Maker(case.dtype, case.device, draw_there=True)
            self._made[layout] = case.workload.inputs(make, LAYOUTS[layout])
        inputs = dict(self._made[layout])
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                value = value.detach().double() if exact else value.detach()
                needs = "backward" in case.direction and name in case.samples.differentiable
                inputs[name] = value.requires_grad_(needs)
        if case.direction == FORWARD_OUT:
            with torch.no_grad():
                inputs["out"] = torch.empty_like(case.samples.function(**inputs))
        return inputs

    def _output_gradients(self, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The same random gradients for all candidates, in the dtype and layout of `outputs`."""
        return [self._output_gradient(index, x) for index, x in enumerate(outputs)]

    def _output_gradient(self, index: int, x: torch.Tensor) -> torch.Tensor:
        key = (index, x.dtype, _format(x))
        if key not in self._upstream:
            # Not Maker, which draws in float64: these are as large as the upsampled maps. Rounded
            # to the case's dtype, so that it is the same number in float64.
            device = self.case.device
            generator = torch.Generator(device).manual_seed(index)
            g = torch.ones((), device=device)
            if x.dim():
                g = torch.randn(x.shape, generator=generator, device=device)
            g = g.to(self.case.dtype).to(x.dtype)
            self._upstream[key] = g.contiguous(memory_format=_format(x))
        return self._upstream[key]


def _format(x: torch.Tensor) -> torch.memory_format:
    if x.dim() == 4 and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
