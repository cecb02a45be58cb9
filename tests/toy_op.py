"""A small op with two backends, for the tests of the machinery: y = 2 x, y' = 2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from fastseg import Backend, registry
from fastseg.layout import map_format
from fastseg.registry import Autograd, Function, OpSpec


def _backend(name: str, ran: list[str], refusal: str | None) -> SimpleNamespace:
    def run(x: torch.Tensor) -> torch.Tensor:
        ran.append(name)
        return (x @ torch.eye(x.shape[-1], dtype=x.dtype)) * 2

    return SimpleNamespace(
        forward=run,
        backward=run,
        unsupported_reason=lambda function, x, **_: refusal if x.dim() == 4 else "rank",
    )


@contextlib.contextmanager
def toy_op(name: str, refusal: str | None = None, **options: Any) -> Iterator[Any]:
    """Registers the op for as long as the block lasts.

    Gives an object with `op`, `spec` and `ran`: the backends that ran, in order. `refusal`: why the
    native backend refuses; None: it runs. `options`: those of OpSpec.
    """
    ran: list[str] = []

    def check(x: torch.Tensor) -> None:
        if x.dim() == 0:
            raise ValueError("x has no dimension")

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return getattr(torch.ops.fastseg, name + "_backward")(grad)

    def write(x: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(x * 2)

    backends = {
        Backend.NATIVE: _backend("native", ran, refusal),
        Backend.REFERENCE: _backend("reference", ran, None),
    }
    backends[Backend.REFERENCE].write = write
    one = {"schema": "(Tensor x) -> Tensor", "check": check, "fake": torch.empty_like}
    spec = OpSpec(
        name=name,
        functions={
            "": Function(**one, autograd=Autograd(setup, backward), layout=map_format),
            "_backward": Function(**one, implementation="backward"),
            "_out": Function(
                schema="(Tensor x, Tensor(a!) out) -> ()",
                fake=lambda *args: None,
                implementation="write",
            ),
        },
        backends=backends,
        **options,
    )
    library = torch.library.Library("fastseg", "FRAGMENT")
    with (
        mock.patch.object(registry, "LIBRARY", library),
        mock.patch.dict(registry.ALL_OPS),
    ):
        try:
            yield SimpleNamespace(op=registry.define(spec), spec=spec, ran=ran)
        finally:
            library._destroy()
