"""Accelerated models of other libraries against themselves as they were."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate_cases import CASES, CLASSES, Case, images, logits, make, outputs
from torch import nn

import fastseg
from fastseg.testing import relative_error

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def pair(case: Case, peers: Any, **options: Any) -> tuple[Any, Any, Any]:
    """The model as it was, the same accelerated, and the report."""
    theirs = make(case, peers)
    ours = copy.deepcopy(theirs)
    report = fastseg.accelerate(ours, **{"image_size": None, **options})
    assert report.swapped and not report.left
    return theirs, ours, report


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@each_case
def test_outputs_gradients_and_statistics_in_float64(case: Case, peers: Any) -> None:
    theirs, ours, _ = pair(case, peers)
    theirs.double(), ours.double()
    x = images()
    for training in (False, True):
        theirs.train(training), ours.train(training)
        with torch.no_grad():
            assert relative_error(outputs(ours(x)), outputs(theirs(x))) <= 1e-12
        results = []
        for model in (theirs, ours):
            leaf = x.clone().requires_grad_()
            result = outputs(model(leaf))
            generator = torch.Generator().manual_seed(1)
            seed = torch.randn(result.shape, generator=generator, dtype=result.dtype)
            model.zero_grad()
            (result @ seed).backward()
            results.append((result.detach(), leaf.grad))
        for expected, found in zip(*results, strict=True):
            assert relative_error(found, expected) <= 1e-12
        largest = max(float(p.grad.norm()) for p in theirs.parameters() if p.grad is not None)
        for (name, ours_p), p in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert (ours_p.grad is None) == (p.grad is None), name
            if p.grad is not None:  # biases before a batch norm have rounding errors only
                difference = float((ours_p.grad - p.grad).norm())
                assert difference <= 1e-11 * max(float(p.grad.norm()), 1e-3 * largest), name
    for (name, ours_b), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(ours_b.double(), b.double(), rtol=1e-11, atol=1e-13), name


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_is_at_most_twice_the_original_one(
    case: Case, peers: Any, dtype: torch.dtype
) -> None:
    theirs, ours, _ = pair(case, peers)
    theirs.eval().to(dtype), ours.eval().to(dtype)
    # The layout that both then compute in: oneDNN's rounding in NCHW is half as large in float32.
    x = images(dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        result, other = outputs(ours(x)), outputs(theirs(x))
        exact = outputs(theirs.double()(x.double()))
    allowed = relative_error(other, exact)
    assert result.dtype is dtype
    assert relative_error(result, exact) <= 2 * allowed


@each_case
def test_nothing_but_the_forward_changes(case: Case, peers: Any) -> None:
    model = make(case, peers)
    before = list(model.state_dict().items())
    identities = [id(t) for t in (*model.parameters(), *model.buffers(), *model.modules())]
    kinds = [type(m) for m in model.modules()]
    text, names = repr(model), [type(m).__name__ for m in model.modules()]
    attributes = [set(vars(m)) for m in model.modules()]
    first = fastseg.accelerate(model, image_size=None)

    def unchanged() -> None:
        after = list(model.state_dict().items())
        assert [k for k, _ in after] == [k for k, _ in before]
        assert all(
            a.data_ptr() == b.data_ptr() for (_, a), (_, b) in zip(after, before, strict=True)
        )
        assert identities == [
            id(t) for t in (*model.parameters(), *model.buffers(), *model.modules())
        ]
        assert [type(m).__name__ for m in model.modules()] == names
        assert [set(vars(m)) for m in model.modules()] == attributes

    unchanged()
    assert all(isinstance(m, k) for m, k in zip(model.modules(), kinds, strict=True))
    accelerated = [type(m) for m in model.modules()]
    assert fastseg.accelerate(model, image_size=None) == first  # idempotent
    assert [type(m) for m in model.modules()] == accelerated
    assert "by fastseg" in repr(model)
    assert fastseg.restore(model) is model
    unchanged()
    assert [type(m) for m in model.modules()] == kinds and repr(model) == text


@each_case
def test_predict(case: Case, peers: Any) -> None:
    theirs, ours, _ = pair(case, peers)
    theirs.eval(), ours.eval()
    x = images(torch.float32, batch=1)
    with torch.no_grad():
        full = logits(theirs(x))
        full = F.interpolate(full, x.shape[2:], mode="bilinear")
    for model in (theirs, ours):
        labels = fastseg.predict_labels(model, x)
        assert labels.dtype is torch.uint8 and labels.shape == (1, 64, 64)
        chosen = full.gather(1, labels[:, None].long())
        assert bool((chosen >= full.amax(1, True) - 1e-4 * full.abs().max()).all())
        assert int(labels.max()) > 0


@each_case
def test_loss_without_full_resolution_logits(case: Case, peers: Any) -> None:
    low = case.name != "transformers-segformer"
    theirs, ours, report = pair(case, peers, low_resolution=low)
    theirs.double().eval(), ours.double().eval()
    x = images()
    target = torch.randint(0, CLASSES, (2, 64, 64))
    target[:, :5] = 255
    coarse = ours(x)
    assert logits(coarse).shape[2] < 64 or case.name == "smp-unet"  # which ends at full size
    found = report.loss_fn(coarse, target)
    result = theirs(x)
    full = F.interpolate(logits(result), x.shape[2:], mode="bilinear")
    expected = F.cross_entropy(full, target, ignore_index=255)
    if isinstance(result, dict) and "aux" in result:
        expected = expected + 0.5 * F.cross_entropy(result["aux"], target, ignore_index=255)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)
    found.backward(), expected.backward()
    p, q = next(ours.parameters()), next(theirs.parameters())
    assert relative_error(p.grad, q.grad) <= 1e-10
    # The same loss of the logits at full resolution.
    fastseg.accelerate(ours, image_size=None)
    assert float(report.loss_fn(ours(x), target)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("name", [c.name for c in CASES if c.library == "transformers"])
def test_loss_of_transformers(peers: Any, name: str) -> None:
    theirs, ours, _ = pair(named(name), peers)
    theirs.double().train(), ours.double().train()
    x = images()
    target = torch.randint(0, CLASSES, (2, 64, 64))
    target[:, :5] = 255
    losses = [model(x, labels=target).loss for model in (theirs, ours)]
    assert float(losses[1]) == pytest.approx(float(losses[0]), rel=1e-12)
    for loss in losses:
        loss.backward()
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        assert p.grad is None or torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-11), key
    tuples = [model(x, labels=target, return_dict=False) for model in (theirs, ours)]
    assert len(tuples[0]) == len(tuples[1])
    assert relative_error(outputs(tuples[1][:2]), outputs(tuples[0][:2])) <= 1e-12
    hidden = [model(x, output_hidden_states=True) for model in (theirs, ours)]
    assert len(hidden[0].hidden_states) == len(hidden[1].hidden_states) > 0


@pytest.mark.parametrize(
    "name", ["torchvision-fcn", "smp-unet", "smp-fpn", "transformers-convnext"]
)
def test_formats_and_autocast(peers: Any, name: str) -> None:
    theirs, ours, _ = pair(named(name), peers)
    theirs.eval(), ours.eval()
    x = images(torch.float32)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                a, b = logits(theirs(given)), logits(ours(given))
            if layout is torch.contiguous_format:
                assert b.is_contiguous() or not a.is_contiguous()
            assert relative_error(b, a) <= 1e-5
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        a, b = logits(theirs(x)), logits(ours(x))
    assert relative_error(b.float(), a.float()) <= 0.03


@pytest.mark.parametrize(
    "name",
    [
        c.name
        for c in CASES
        if c.name not in ("torchvision-fcn", "smp-deeplabv3", "transformers-swin")
    ],
)
def test_export_and_compile(peers: Any, name: str) -> None:
    case = named(name)
    _, ours, _ = pair(case, peers)
    ours.eval()
    x = images(torch.float32, batch=1)
    with torch.no_grad():
        expected = outputs(ours(x))
        program = torch.export.export(ours, (x,), strict=False)
        for op in case.ops:
            assert f"torch.ops.fastseg.{op}" in str(program.graph), op
        assert relative_error(outputs(program.module()(x)), expected) <= 1e-5
        graphs: list[str] = []

        def backend(graph: Any, _: Any) -> Any:
            graphs.append(str(graph.graph))
            return graph.forward

        torch._dynamo.reset()
        compiled = torch.compile(ours, backend=backend, fullgraph=True)
        assert relative_error(outputs(compiled(x)), expected) <= 1e-5
        assert len(graphs) == 1
        fastseg.restore(ours)
        assert relative_error(outputs(compiled(x)), expected) <= 1e-5
        assert len(graphs) == 2 and "fastseg" not in graphs[1]
        if case.ops:
            assert "fastseg" in graphs[0]
            fastseg.accelerate(compiled, image_size=None)
            compiled(x)
            assert type(ours) is not type(fastseg.restore(compiled)._orig_mod)


def test_an_optimizer_goes_on(peers: Any) -> None:
    theirs, ours, report = pair(named("smp-upernet"), peers, low_resolution=True)
    fastseg.restore(ours)
    theirs.double().train(), ours.double().train()
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3) for model in (theirs, ours)]
    x, target = images(), torch.randint(0, CLASSES, (2, 64, 64))
    for step in range(3):
        if step == 1:
            report = fastseg.accelerate(ours, low_resolution=True, image_size=None)
        found = report.loss_fn(ours(x), target)
        expected = F.cross_entropy(theirs(x), target)
        assert float(found) == pytest.approx(float(expected), rel=1e-9)
        for optimizer, loss in zip(optimizers, (expected, found), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@pytest.mark.parametrize("name", ["torchvision-deeplabv3", "smp-unet", "transformers-segformer"])
def test_copies_and_pickles(peers: Any, name: str) -> None:
    _, ours, _ = pair(named(name), peers)
    ours.eval()
    x = images(torch.float32, batch=1)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(file, weights_only=False),
    ):
        assert [type(m) for m in other.modules()] == [type(m) for m in ours.modules()]
        with torch.no_grad():
            assert torch.equal(outputs(other(x)), outputs(ours(x)))
        fastseg.restore(other)
        assert type(ours) is not type(other)


def test_libraries_are_not_imported() -> None:
    code = (
        "import sys, fastseg\n"
        "found = {m.partition('.')[0] for m in sys.modules} & "
        "{'torchvision', 'segmentation_models_pytorch', 'transformers', 'timm'}\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_flops_are_counted(peers: Any) -> None:
    model = make(named("transformers-segformer"), peers)
    hooked: list[int] = []
    model.register_forward_hook(lambda *_: hooked.append(1))
    report = fastseg.accelerate(model, image_size=(128, 64))
    assert not hooked  # it runs on a copy
    rows = {row.path: row for row in report.rows}
    head = rows["decode_head"]
    # As written: 1x1 convolution of 4 * 64 channels; and linear layers of 8, 16, 24, 32 channels.
    pixels = (32 * 16, 16 * 8, 8 * 4, 4 * 2)
    written = sum(2 * p * c * 64 for p, c in zip(pixels, (8, 16, 24, 32), strict=True))
    written += 2 * pixels[0] * (256 * 64 + 64 * CLASSES)
    assert head.flops_before == written
    # No way around the finest level's product and the classifier.
    least = 2 * pixels[0] * (8 * 64 + 64 * CLASSES)
    assert least < head.flops_after < written / 6
    assert report.total is not None
    assert report.total[0] - report.total[1] == head.flops_before - head.flops_after
    text = str(report)
    assert "decode_head  SegformerDecodeHead" in text and "->" in text and "128x64 image" in text


def test_flops_that_cannot_be_counted(peers: Any) -> None:
    report = fastseg.accelerate(make(named("smp-deeplabv3"), peers), image_size=(65, 65))
    assert report.swapped and report.total is None
    assert any("FLOPs are not counted" in note for note in report.notes)


def test_unknown_models_stay_as_they_are() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Upsample(scale_factor=2)
    )
    kinds = [type(m) for m in model.modules()]
    report = fastseg.accelerate(model)
    assert [type(m) for m in model.modules()] == kinds and report.rows == ()
    assert "nothing in it is known" in str(report)
    with pytest.raises(ValueError, match="low_resolution: the model is a Sequential"):
        fastseg.accelerate(model, low_resolution=True)
    x = torch.randn(1, 3, 10, 10)
    assert fastseg.predict_labels(model.eval(), x).shape == (1, 10, 10)


def test_depthwise_dilated_convolutions_anywhere() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, padding_mode="reflect"),
    )
    x = torch.randn(1, 8, 12, 12)
    expected = model(x)
    report = fastseg.accelerate(model, image_size=None)
    assert [row.path for row in report.swapped] == ["0"]
    assert report.left[0].why_not == "padding_mode is 'reflect'"
    assert "left alone: padding_mode" in str(report)
    assert relative_error(model(x), expected) <= 1e-6


def test_heads_without_logits(peers: Any) -> None:
    smp = peers("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None, classes=1, activation="sigmoid").eval()
    with pytest.raises(ValueError, match="no logits to give: its head ends with Sigmoid"):
        fastseg.accelerate(model, low_resolution=True, image_size=None)
    x = images(torch.float32, batch=1)
    with torch.no_grad():
        assert torch.equal(
            fastseg.predict_labels(model, x)[:, None], (model(x) > 0.5).to(torch.uint8)
        )
    clamped = smp.Unet("resnet18", encoder_weights=None, classes=1, activation="clamp").eval()
    with pytest.raises(ValueError, match="no threshold"):
        fastseg.predict_labels(clamped, x)
