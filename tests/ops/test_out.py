"""Results that are written to tensors of the caller: of every function that does so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import inputs, samples_of

from fastseg.registry import ALL_OPS

# Public functions with out=, by op: those with a function that writes to an argument.
_OPS = [
    op
    for op in ALL_OPS.values()
    if any(
        argument.is_write
        for suffix in op.functions
        for argument in getattr(torch.ops.fastseg, op.name + suffix).default._schema.arguments
    )
]
each_op_with_out = pytest.mark.parametrize("op", _OPS, ids=lambda op: op.name)


def _case(op: Any) -> tuple[Any, dict[str, Any], torch.Tensor]:
    table = samples_of(op)
    for sample in table.samples:
        values = inputs(sample)
        expected = table.function(**values)
        if expected.numel() > 0 and expected.is_contiguous():
            return table.function, values, expected
    raise AssertionError("no sample")


def test_there_are_such_ops():
    assert [op.name for op in _OPS] == ["upsample_bilinear"]


@each_op_with_out
def test_writes_the_same_bits(op):
    function, values, expected = _case(op)
    out = torch.full_like(expected, float("nan"))
    assert function(**values, out=out) is out
    assert torch.equal(out, expected)


@each_op_with_out
def test_out_that_overlaps_the_input(op):
    """The same tensor, a part of its storage, or as torch's own out= functions: an error."""
    function, values, expected = _case(op)
    first = next(iter(values))
    x = values[first]
    storage = torch.zeros(x.numel() + expected.numel())
    for start in (0, 1, x.numel() - 1):
        inside = storage[: x.numel()].copy_(x.flatten()).view(x.shape)
        out = storage[start : start + expected.numel()].view(expected.shape)
        before = storage.clone()
        with pytest.raises(ValueError, match="out shares memory with an input"):
            function(**{**values, first: inside}, out=out)
        assert torch.equal(storage, before)
    out = storage[x.numel() :].view(expected.shape)
    assert torch.equal(function(**{**values, first: inside}, out=out), expected)


@each_op_with_out
def test_out_that_is_the_input(op):
    function, values, _ = _case(op)
    first = next(iter(values))
    x = values[first]
    size = {"size": x.shape[2:]} if "size" in values else {}
    with pytest.raises(ValueError, match="out is an input as well"):
        function(**{**values, **size}, out=x)


@each_op_with_out
def test_out_that_is_unfit(op):
    function, values, expected = _case(op)
    for match, error, out in (
        ("strides", ValueError, expected[..., :1].expand_as(expected)),
        ("strides", ValueError, torch.empty(*expected.shape, 2)[..., 0]),
        ("shape", ValueError, expected[..., :1].contiguous()),
        ("dtype", TypeError, expected.double()),
        ("device|is on", ValueError, expected.to("meta")),
        ("gradients are recorded", ValueError, torch.empty_like(expected).requires_grad_()),
    ):
        before = out.detach().clone()
        with pytest.raises(error, match=match):
            function(**values, out=out)
        assert out.device.type == "meta" or torch.equal(out.nan_to_num(), before.nan_to_num())


@each_op_with_out
def test_out_under_transforms_is_an_error(op):
    function, values, expected = _case(op)
    first = next(iter(values))
    run = lambda x: function(**{**values, first: x}, out=torch.empty_like(expected))  # noqa: E731
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(run, (values[first],), (values[first],))
    with pytest.raises(NotImplementedError, match="vmap"):
        torch.vmap(run)(values[first][None])
