"""Checks a case, then times fastseg and its peers in turn. A wrong result is never timed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .._private_torch import tree_leaves
from .candidates import COMPILED, EAGER, LAYOUTS, OURS, Candidate, Problem
from .cases import DTYPES, FORWARD_OUT, Case
from .check import WrongResult, check_by, check_result
from .machine import Ceilings
from .memory import peak_extra_bytes
from .timing import time_interleaved

__all__ = ["Settings", "WrongResult", "rate", "run_case"]

# Peers differ from eager NCHW by rounding alone, so they may err twice as much as we may.
PEER_RATIO = 4.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """The time a case gets and the peers it is compared with.

    Attributes:
        budget_s: seconds of timing per case (min_rounds may take longer).
        min_rounds: samples of each variant, at least.
        compile: whether torch.compile is a peer, in the device's first dtype only: compiling takes
            longer than all the rest.
        other_peers: whether the other ways to write the peer are peers too.
        memory: whether to measure the peak extra memory; in NCHW, the other layout needs the same.
    """

    budget_s: float = 2.0
    min_rounds: int = 5
    compile: bool = True
    other_peers: bool = True
    memory: bool = True


DEFAULT = Settings()


def run_case(case: Case, settings: Settings = DEFAULT) -> dict[str, Any]:
    """Checks, measures and times one case.

    Returns:
        One row of results, ready for JSON. "speedup" is the peer's median time in its best layout
        over fastseg's in its best layout; `rate` adds what needs the ceilings.

    Raises:
        WrongResult: fastseg's result or gradient is less accurate than the project allows. Peers
            that are wrong or fail are left out instead, and named under "left_out".
    """
    problem = Problem(case)
    with _fastest_cudnn():
        accepted, left_out, output_bytes = _checked_candidates(case, problem, settings)
        memory: dict[str, int | None] = {}
        if settings.memory:
            memory = {
                c.label: peak_extra_bytes(c.variant, case.device)
                for c in accepted
                if c.layout == "NCHW"
            }
        timings = time_interleaved(
            [c.variant for c in accepted],
            device=case.device,
            budget_s=settings.budget_s,
            min_rounds=settings.min_rounds,
        )
    variants = [
        {
            "kind": c.kind,
            "layout": c.layout,
            **timings[c.label].summary(),
            "peak_extra_bytes": memory.get(c.label),
        }
        for c in accepted
    ]
    return {
        "op": case.op,
        "workload": case.workload.name,
        "dtype": case.dtype_name,
        "direction": case.direction,
        "checked": True,
        "result_buffer": "reused" if case.direction == FORWARD_OUT else "fresh",
        **_figures(case, problem, variants, output_bytes),
        "variants": variants,
        "left_out": left_out,
    }


def _checked_candidates(
    case: Case, problem: Problem, settings: Settings
) -> tuple[list[Candidate], dict[str, str], int]:
    """Returns (accepted, {label: reason} of rejected peers, result bytes)."""
    truth = problem.reference(exact=True).result()
    peer = problem.reference(exact=False).result()
    accepted: list[Candidate] = []
    left_out: dict[str, str] = {}
    discrete: list[torch.Tensor] = []  # checked results: labels in the other layout may equal them

    def accept(kind: str, layout: str, make: Callable[[], Candidate]) -> None:
        label = f"{kind} {layout}"
        try:
            candidate = make()
            if kind == EAGER and layout == "NCHW" and case.direction != FORWARD_OUT:
                accepted.append(candidate)  # the yardstick itself: `peer` is its result
                return
            result, what = candidate.result(), f"{case}: {label}"
            if kind != OURS:
                check_result(result, peer, truth, what, PEER_RATIO)
            elif case.samples.compare is None:
                _check_ours(problem, layout, result, peer, truth, what)
            elif not any(torch.equal(result, right) for right in discrete):
                check_by(case.samples.compare, candidate.inputs, result, what)
                discrete.append(result)
        except Exception as error:
            if kind == OURS:
                raise
            # A peer may fail in any way (no compiler, no kernel): that is reported, not fatal.
            left_out[label] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        else:
            accepted.append(candidate)

    for kind, function in problem.functions().items():
        if kind not in (OURS, EAGER) and not settings.other_peers:
            continue
        for layout in LAYOUTS:
            accept(kind, layout, functools.partial(problem.candidate, kind, function, layout))
    if settings.compile and case.dtype is DTYPES[case.device][0]:
        for layout in LAYOUTS:
            accept(COMPILED, layout, functools.partial(problem.compiled, layout))
    outputs = tree_leaves(peer[0] if "backward" in case.direction else peer)
    return accepted, left_out, sum(x.numel() * x.element_size() for x in outputs)


def _check_ours(
    problem: Problem, layout: str, result: Any, peer: Any, truth: Any, what: str
) -> None:
    """Checks against PyTorch in NCHW or, failing that, in our layout, which may round otherwise."""
    try:
        check_result(result, peer, truth, what)
    except WrongResult:
        if layout == "NCHW":
            raise
        same_layout = problem.reference(exact=False, layout=layout).result()
        check_result(result, same_layout, truth, what)


@contextlib.contextmanager
def _fastest_cudnn() -> Iterator[None]:
    """Lets peers use the fastest cuDNN kernels rather than those its heuristics choose."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def rate(row: dict[str, Any], ceilings: Ceilings) -> None:
    """Adds to a row the ceiling that limits it and the fraction reached."""
    shares = {
        "memory": row["gb_per_s"] * 1e9 / ceilings.copy_bytes_per_s,
        "arithmetic": row["gflop_per_s"] * 1e9 / ceilings.flops_per_s,
    }
    row["bound"] = max(shares, key=lambda name: shares[name])
    row["fraction_of_ceiling"] = shares[row["bound"]]


def _figures(
    case: Case, problem: Problem, variants: list[dict[str, Any]], output_bytes: int
) -> dict[str, Any]:
    best: dict[str, dict[str, Any]] = {}
    for variant in sorted(variants, key=lambda v: v["median_s"]):
        best.setdefault(variant["kind"], variant)
    ours = best.pop(OURS)
    seconds = ours["median_s"]
    moved, flops = _work(case, problem, output_bytes)
    return {
        "best_layout": ours["layout"],
        "speedup": {kind: variant["median_s"] / seconds for kind, variant in best.items()},
        "bytes": moved,
        "flops": flops,
        "gb_per_s": moved / seconds / 1e9,
        "gflop_per_s": flops / seconds / 1e9,
    }


def _work(case: Case, problem: Problem, output_bytes: int) -> tuple[int, int]:
    """The fewest bytes and the number of operations of the case's direction.

    The workload states the forward's. A backward writes one gradient per differentiable input and,
    unless the result is a scalar, reads the result's gradient; it takes as many operations as the
    forward for every differentiable map or kernel.
    """
    inputs = problem.inputs("NCHW")
    moved, flops = case.workload.bytes(inputs), case.workload.flops(inputs)
    if "backward" not in case.direction:
        return moved, flops
    leaves = [x for x in inputs.values() if getattr(x, "requires_grad", False)]
    read = output_bytes if output_bytes > 8 else 0
    backward_moved = read + sum(x.numel() * x.element_size() for x in leaves)
    backward_flops = flops * sum(x.dim() == 4 for x in leaves)
    if case.direction == "backward":
        return backward_moved, backward_flops
    return moved + backward_moved, flops + backward_flops
