"""Which backend runs: order, force, reasons, and that the backward follows the forward."""

from __future__ import annotations

import threading

import pytest
import torch
from toy_op import toy_op

import fastseg
from fastseg import Backend, BackendUnavailable, backends, use_backend


@pytest.fixture
def toy():
    with toy_op("toy") as toy:
        yield toy


@pytest.fixture
def refusing():
    with toy_op("refusing_toy", refusal="the moon is full") as toy:
        yield toy


def _x(*shape, **options):
    return torch.ones(shape or (1, 1, 2, 2), **options)


def test_the_first_able_backend_runs(toy, refusing):
    toy.op(_x())
    refusing.op(_x())
    assert (toy.ran, refusing.ran) == (["native"], ["reference"])


def test_a_backend_that_is_passed_over_runs_only_by_force(toy):
    native = toy.spec.backends[Backend.NATIVE]
    native.passed_over = lambda _, x: "slower here" if x.shape[-1] == 2 else None
    toy.op(_x())
    toy.op(_x(1, 1, 2, 3))
    with use_backend("native"):
        toy.op(_x())
    assert toy.ran == ["reference", "native", "native"]
    assert backends.unsupported_reasons(toy.spec, "forward", {"x": _x()})[Backend.NATIVE] is None


def test_forced_by_member_or_value(toy):
    for backend in (Backend.REFERENCE, "reference"):
        with use_backend(backend):
            toy.op(_x())
    assert toy.ran == ["reference", "reference"]


def test_nesting(toy):
    with use_backend("reference"):
        with use_backend("native"):
            toy.op(_x())
        toy.op(_x())
        with use_backend(None):
            toy.op(_x())
    toy.op(_x())
    assert toy.ran == ["native", "reference", "native", "native"]


def test_the_choice_ends_with_an_exception(toy):
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert backends.forced_backend() is None


def test_a_forced_backend_that_cannot_gives_its_reason(refusing):
    with use_backend("native"), pytest.raises(BackendUnavailable) as error:
        refusing.op(_x())
    assert str(error.value) == (
        "no backend of refusing_toy can run its forward on these inputs:\n"
        "  native: the moon is full"
    )
    assert refusing.ran == []


def test_one_error_lists_every_reason(toy):
    with pytest.raises(BackendUnavailable) as error:
        toy.op(_x(2))
    assert str(error.value).endswith("on these inputs:\n  native: rank\n  reference: rank")


def test_a_backend_without_the_function_says_so(toy):
    with use_backend("native"), pytest.raises(BackendUnavailable, match="native: has no write"):
        torch.ops.fastseg.toy_out(_x(), _x())


def test_a_backend_that_the_op_lacks(toy):
    with use_backend("triton"), pytest.raises(BackendUnavailable, match="it has: native, refer"):
        toy.op(_x())


@pytest.mark.parametrize("name", ["cuda", "Native", "", 3])
def test_unknown_backends(name):
    with pytest.raises(ValueError, match="allowed are 'native', 'triton', 'torch', 'reference'"):
        use_backend(name).__enter__()


def test_reasons_for_every_backend(refusing):
    reasons = backends.unsupported_reasons(refusing.spec, "forward", {"x": _x()})
    assert reasons == {Backend.NATIVE: "the moon is full", Backend.REFERENCE: None}


@pytest.mark.parametrize("outside", [None, "native"])
def test_backward_follows_a_forced_forward(toy, outside):
    x = _x(requires_grad=True)
    with use_backend("reference"):
        y = toy.op(x)
    with use_backend(outside):
        y.sum().backward()
    assert toy.ran == ["reference", "reference"]


def test_backward_of_an_unforced_forward_is_not_forced(toy):
    y = toy.op(_x(requires_grad=True))
    with use_backend("reference"):
        y.sum().backward()
    assert toy.ran == ["native", "native"]


def test_other_threads_choose_for_themselves(toy):
    with use_backend("reference"):
        thread = threading.Thread(target=toy.op, args=(_x(),))
        thread.start()
        thread.join()
    assert toy.ran == ["native"]


def test_backward_on_another_thread_follows_the_forward(toy):
    with use_backend("reference"):
        y = toy.op(_x(requires_grad=True)).sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    assert toy.ran == ["reference", "reference"]


def test_compiled_graphs_choose_when_they_run(toy):
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: toy.op(x) + 1, fullgraph=True, backend="aot_eager")
    for backend in ("native", "reference"):
        with use_backend(backend):
            compiled(_x())
    compiled(_x())
    assert toy.ran == ["native", "reference", "native"]


def test_native_reasons():
    x = torch.ones(1, 1, 2, 2)
    reason = fastseg._native.unsupported_reason
    assert reason(x, cuda=False) is None
    assert "dtype torch.int8" in reason(x.to(torch.int8), cuda=False)
    assert "device meta" in reason(x.to("meta"), cuda=False)
