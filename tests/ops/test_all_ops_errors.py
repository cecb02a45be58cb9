"""Wrong arguments and backends that cannot run: for every op, from every way of calling it."""

from __future__ import annotations

import re

import pytest
import torch
from op_cases import each_error, each_op, inputs, samples_of
from torch._subclasses.fake_tensor import FakeTensorMode

from fastseg import Backend, BackendUnavailable, use_backend


@each_error
def test_eager(op, sample):
    with pytest.raises(sample.error, match=sample.match):
        samples_of(op).function(**inputs(sample))


@each_error
def test_fake_implementation_says_the_same(op, sample):
    if sample.from_values:
        pytest.skip("wrong values: fake tensors have none")
    with pytest.raises(sample.error) as eager:
        samples_of(op).function(**inputs(sample))
    with FakeTensorMode() as mode:
        fakes = {
            k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v
            for k, v in inputs(sample).items()
        }
        with pytest.raises(sample.error, match="^" + re.escape(str(eager.value)) + "$"):
            samples_of(op).function(**fakes)


@each_error
def test_compile_says_the_same(op, sample):
    """Without fullgraph the exception is the eager one. With fullgraph=True Dynamo owns the
    exception: its text, or that of its cause, has our message; and where the op's own check
    refused, it is a ValueError (TypeError) as well."""
    torch._dynamo.reset()
    with pytest.raises(sample.error) as eager:
        samples_of(op).function(**inputs(sample))
    compiled = torch.compile(samples_of(op).function, backend="aot_eager")
    with pytest.raises(sample.error, match="^" + re.escape(str(eager.value)) + "$"):
        compiled(**inputs(sample))
    torch._dynamo.reset()
    compiled = torch.compile(samples_of(op).function, backend="aot_eager", fullgraph=True)
    with pytest.raises((sample.error, torch._dynamo.exc.Unsupported)) as full:
        compiled(**inputs(sample))
    assert str(eager.value) in f"{full.value} {full.value.__cause__}"


@each_op
def test_except_clauses_catch_errors_of_full_graphs(op):
    """What the op's own check refuses is a ValueError even where Dynamo raises it."""
    torch._dynamo.reset()
    rank = next(s for s in samples_of(op).errors if "rank" in s.why)
    compiled = torch.compile(samples_of(op).function, backend="aot_eager", fullgraph=True)
    with pytest.raises(ValueError, match=rank.match):
        compiled(**inputs(rank))


@each_op
def test_backends_that_the_op_lacks(op):
    values = inputs(samples_of(op).samples[0])
    for backend in set(Backend) - set(op.backends):
        with use_backend(backend), pytest.raises(BackendUnavailable, match="has no backend"):
            samples_of(op).function(**values)


@each_op
def test_forced_backends_run_or_give_their_reason(op):
    values = inputs(samples_of(op).samples[0])
    for backend in op.backends:
        with use_backend(backend):
            try:
                samples_of(op).function(**values)
            except BackendUnavailable as error:
                assert re.search(rf"no backend of {op.name} .*\n  {backend.value}: \w+", str(error))
