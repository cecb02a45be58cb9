"""Modules that somebody else has changed run as they always did; wrappers notice nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate_cases import CASES, CLASSES, Case, images, make, outputs
from torch import nn
from torch.nn.utils import parametrizations, prune

import fastseg
from fastseg.testing import relative_error


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


# A layer that the exchanged forward of each model does not call.
SKIPPED = {
    "torchvision-deeplabv3": "classifier.0.project.0",
    "smp-pspnet": "decoder.conv.0",
    "smp-unet": "decoder.blocks.0.conv1.0",
    "smp-fpn": "decoder.seg_blocks.0.block.1.block.0",
    "transformers-segformer": "decode_head.linear_projections.1.proj",
    "transformers-convnext": "decode_head.fpn_bottleneck.conv",
}
each_skipped = pytest.mark.parametrize("name", SKIPPED)


def owner(report: Any, path: str) -> list[Any]:
    """The modules that were left alone, around a path."""
    return [row for row in report.left if path.startswith(row.path)]


@each_skipped
def test_hooks_inside(peers: Any, name: str) -> None:
    model = make(named(name), peers).eval()
    path = SKIPPED[name]
    x = images(torch.float32, batch=1)
    with torch.no_grad():
        expected = outputs(model(x))
        calls: list[int] = []
        # Put there after accelerating: it is called from then on.
        fastseg.accelerate(model, image_size=None)
        handle = model.get_submodule(path).register_forward_hook(lambda *_: calls.append(1))
        assert relative_error(outputs(model(x)), expected) <= 1e-4
        assert len(calls) == 1
        # Before accelerating: it is left alone, with a reason.
        fastseg.restore(model)
        report = fastseg.accelerate(model, image_size=None)
        assert "has hooks" in owner(report, path)[0].why_not
        assert relative_error(outputs(model(x)), expected) <= 1e-4
        assert len(calls) == 2
        handle.remove()
        assert not fastseg.accelerate(model, image_size=None).left


@each_skipped
@pytest.mark.parametrize("change", ["parametrize", "prune", "adapter", "forward", "tensor"])
def test_altered_layers(peers: Any, name: str, change: str) -> None:
    """Each change makes the layer compute something else, which must not be lost."""
    path = SKIPPED[name]
    model = make(named(name), peers).eval()
    fastseg.accelerate(model, image_size=None)
    parent, _, child = path.rpartition(".")
    layer: Any = model.get_submodule(path)
    if change == "parametrize":
        parametrizations.weight_norm(layer)
        layer.parametrizations.weight.original0.data *= 2
    elif change == "prune":
        prune.random_unstructured(layer, "weight", 0.5)
    elif change == "adapter":

        class Adapter(nn.Module):
            def __init__(self, base: nn.Module) -> None:
                super().__init__()
                self.base, self.weight, self.bias = base, base.weight, base.bias

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 2 * self.base(x)

        model.get_submodule(parent)._modules[child] = Adapter(layer)
    elif change == "forward":
        inner = layer.forward
        layer.forward = lambda x: 2 * inner(x)
    else:

        class Scaled(torch.Tensor):
            """As quantised weights are: a tensor that means another one."""

        layer.weight = nn.Parameter(layer.weight.detach().mul(2).as_subclass(Scaled))
    x = images(torch.float32, batch=1)
    with torch.no_grad():
        found = outputs(model(x))
        fastseg.restore(model)
        expected = outputs(model(x))
        report = fastseg.accelerate(model, image_size=None)
        assert relative_error(found, expected) <= 1e-4
        assert owner(report, path) and owner(report, path)[0].why_not
        assert relative_error(outputs(model(x)), expected) <= 1e-4


def test_transforms_run_as_written(peers: Any) -> None:
    """vmap, jvp and functional_call, of which our operators know nothing or need nothing."""
    model = make(named("smp-fpn"), peers).double().eval()
    plain = copy.deepcopy(model)
    fastseg.accelerate(model, image_size=None)
    x = images()
    parameters = {k: 1.1 * v.detach() for k, v in model.named_parameters()}
    call = torch.func.functional_call
    results = [outputs(call(m, parameters, (x,))) for m in (model, plain)]
    assert relative_error(*results) <= 1e-12
    with torch.no_grad():
        for run in (
            lambda m: torch.func.vmap(lambda y: m(y[None]))(x),
            lambda m: torch.func.jvp(m, (x,), (torch.ones_like(x),))[1],
        ):
            assert relative_error(run(model), run(plain)) <= 1e-12


def test_synchronised_batch_norm_and_frozen_encoder(peers: Any) -> None:
    model = make(named("smp-unet"), peers).double()
    model.freeze_encoder()
    plain = copy.deepcopy(model)
    fastseg.accelerate(model, image_size=None)
    for m in (model, plain):
        m.train()
    x = images()
    results = [outputs(m(x)) for m in (model, plain)]
    assert relative_error(*results) <= 1e-12
    for result in results:
        result.sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    plain.eval()
    with torch.no_grad():
        assert relative_error(outputs(converted(x)), outputs(plain(x))) <= 1e-12


@pytest.fixture
def one_process(tmp_path: Any) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def test_before_and_after_ddp(peers: Any, one_process: None) -> None:
    plain = make(named("transformers-convnext"), peers).double().train()
    x = images()
    target = torch.randint(0, CLASSES, (2, 64, 64))
    expected = plain(x, labels=target).loss
    expected.backward()
    for first in (True, False):
        model = copy.deepcopy(plain)
        model.zero_grad()
        if first:
            fastseg.accelerate(model, image_size=None)
        wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        report = fastseg.accelerate(wrapped, image_size=None)
        assert next(row.path for row in report.swapped) == ""  # as if it were not wrapped
        loss = wrapped(x, labels=target).loss
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-11)
        labels = fastseg.predict_labels(wrapped, x)
        assert labels.shape == (2, 64, 64)
        fastseg.restore(wrapped)
        assert type(wrapped.module) is type(plain)


def test_sharded_models(peers: Any, one_process: None) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    plain = make(named("transformers-segformer"), peers).double().eval()
    x = images()
    with torch.no_grad():
        expected = outputs(plain(x))
    mesh = dist.init_device_mesh("cpu", (1,))
    for parts in ((), ("decode_head",), ("decode_head.linear_fuse",)):
        model = copy.deepcopy(plain)
        fastseg.accelerate(model, image_size=None)
        for part in parts:
            fsdp.fully_shard(model.get_submodule(part), mesh=mesh)
        fsdp.fully_shard(model, mesh=mesh)
        with torch.no_grad():
            assert relative_error(outputs(model(x)), expected) <= 1e-12
            assert fastseg.predict_labels(model, x).shape == (2, 64, 64)
            fastseg.restore(model)
            assert relative_error(outputs(model(x)), expected) <= 1e-12
    model = copy.deepcopy(plain)
    fsdp.fully_shard(model, mesh=mesh)
    report = fastseg.accelerate(model, image_size=None)
    assert any("sharded" in note for note in report.notes)
    with torch.no_grad():
        assert relative_error(outputs(model(x)), expected) <= 1e-12
