"""Labels of models whose head somebody modified: what is not the known head is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate_cases import CASES, CLASSES, Case, images, logits, make
from torch import nn

import fastseg


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


class Wrapped(nn.Module):
    """An adapter around a head."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.head(x)


class Reversed(nn.Module):
    """The classes in another order: labels are wrong where it is not called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)


def append(model: Any) -> None:
    model.segmentation_head.append(Reversed())


def convolution(model: Any) -> None:
    model.segmentation_head = nn.Conv2d(model.segmentation_head[0].in_channels, CLASSES, 3)


def activation(model: Any) -> None:
    model.segmentation_head[2] = Reversed()


def inner_activation(model: Any) -> None:
    model.segmentation_head[2].activation = Reversed()


def softmin(model: Any) -> None:
    model.segmentation_head[2].activation = nn.Softmin(dim=1)


def wrap(model: Any) -> None:
    model.segmentation_head = Wrapped(model.segmentation_head)


def wrap_convolution(model: Any) -> None:
    model.segmentation_head[0] = Wrapped(model.segmentation_head[0])


def hook(model: Any) -> None:
    model.segmentation_head.register_forward_hook(lambda *a: -a[2])


def hook_inside(model: Any) -> None:
    model.segmentation_head[1].register_forward_hook(lambda *a: -a[2])


def hook_of_activation(model: Any) -> None:
    model.segmentation_head[2].activation.register_forward_hook(lambda *a: -a[2])


def hook_of_model(model: Any) -> None:
    model.register_forward_hook(lambda *a: -a[2])


def hook_before_model(model: Any) -> None:
    model.register_forward_pre_hook(lambda module, args: (args[0].flip(3),))


def no_upsampling(model: Any) -> None:
    model.segmentation_head[1] = nn.Identity()


def other_factor(model: Any) -> None:
    model.segmentation_head[1] = nn.UpsamplingBilinear2d(scale_factor=2)


def other_mode(model: Any) -> None:
    model.segmentation_head[1] = nn.Upsample(scale_factor=8, mode="nearest")


def other_corners(model: Any) -> None:
    model.segmentation_head[1] = nn.Upsample(scale_factor=8, mode="bilinear")


def to_a_size(model: Any) -> None:
    model.segmentation_head[1] = nn.Upsample(size=(40, 50), mode="bilinear", align_corners=True)


def own_forward(model: Any) -> None:
    inner = model.segmentation_head.forward
    model.segmentation_head.forward = lambda x: -inner(x)


def own_forward_of_model(model: Any) -> None:
    inner = model.forward
    model.forward = lambda x: -inner(x)


def other_classes(model: Any) -> None:
    model.segmentation_head[0] = nn.Conv2d(model.segmentation_head[0].in_channels, 9, 1)


SMP_CHANGES = (
    append,
    convolution,
    activation,
    inner_activation,
    softmin,
    wrap,
    wrap_convolution,
    hook,
    hook_inside,
    hook_of_activation,
    hook_of_model,
    hook_before_model,
    no_upsampling,
    other_factor,
    other_mode,
    other_corners,
    to_a_size,
    own_forward,
    own_forward_of_model,
    other_classes,
)


def assert_labels(labels: torch.Tensor, full: torch.Tensor) -> None:
    """The labels are those of the logits but for ties to rounding."""
    assert labels.shape == (full.shape[0], *full.shape[2:])
    chosen = full.gather(1, labels[:, None].long())
    assert bool((chosen >= full.amax(1, True) - 1e-4 * full.abs().max()).all())


@pytest.mark.parametrize("first", [True, False], ids=["changed-first", "accelerated-first"])
@pytest.mark.parametrize("change", SMP_CHANGES, ids=lambda change: change.__name__)
def test_smp(peers: Any, change: Callable[[Any], None], first: bool) -> None:
    torch.manual_seed(1)
    model = make(named("smp-pspnet"), peers).eval()
    if first:
        change(model)
    fastseg.accelerate(model, image_size=None)
    if not first:
        change(model)
    x = images(torch.float32)
    with torch.no_grad():
        found = fastseg.predict_labels(model, x)
        full = model(x)
        assert_labels(found, full)
        plain = fastseg.restore(model)(x)
        assert_labels(fastseg.predict_labels(model, x), plain)
    assert torch.allclose(full, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [append, convolution, activation, wrap, other_mode, to_a_size, softmin],
    ids=lambda change: change.__name__,
)
def test_low_resolution_of_a_modified_head_is_refused(
    peers: Any, change: Callable[[Any], None]
) -> None:
    model = make(named("smp-pspnet"), peers).eval()
    x = images(torch.float32)
    fastseg.accelerate(model, low_resolution=True, image_size=None)
    change(model)
    if change is not wrap:  # inside a wrapper, the head goes on as it was told
        with torch.no_grad():
            assert torch.allclose(model(x), fastseg.restore(model)(x), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="low_resolution: the model has no logits to give: its"):
        fastseg.accelerate(model, low_resolution=True, image_size=None)


def _sequence(*after: nn.Module) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.segmentation_head = nn.Sequential(model.segmentation_head, *after)

    return change


@pytest.mark.parametrize(
    ("change", "threshold"),
    [
        (_sequence(nn.Sigmoid()), 0.5),
        (_sequence(nn.Identity(), nn.Sigmoid()), 0.5),
        (_sequence(nn.Upsample(scale_factor=2)), 0.0),
        (_sequence(nn.Conv2d(1, 1, 1)), 0.0),
        (_sequence(nn.Hardtanh()), None),
        (wrap, None),
        (hook_inside, 0.0),
    ],
)
def test_one_class(peers: Any, change: Callable[[Any], None], threshold: float | None) -> None:
    smp = peers("segmentation_models_pytorch")
    model = smp.PSPNet("resnet18", encoder_weights=None, classes=1).eval()
    change(model)
    x = images(torch.float32)
    if threshold is None:
        with pytest.raises(ValueError, match="no threshold is known for one class: its head is a"):
            fastseg.predict_labels(model, x)
        return
    with torch.no_grad():
        expected = (model(x) > threshold)[:, 0]
    assert float((fastseg.predict_labels(model, x) == expected).double().mean()) > 0.999


@pytest.mark.parametrize("name", ["torchvision-fcn", "torchvision-deeplabv3", "torchvision-lraspp"])
@pytest.mark.parametrize("change", ["wrap", "layer", "hook", "larger", "model"])
def test_torchvision(peers: Any, name: str, change: str) -> None:
    torch.manual_seed(2)
    model: Any = make(named(name), peers).eval()
    if change == "wrap":
        inner = model.classifier

        class Wrapping(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Any) -> torch.Tensor:
                return self.inner(x).flip(1)

        model.classifier = Wrapping()
    elif change == "layer" and name != "torchvision-lraspp":
        model.classifier.append(Reversed())
    elif change == "layer":
        model.classifier.low_classifier = Wrapped(model.classifier.low_classifier)
    elif change == "hook":
        model.classifier.register_forward_hook(lambda *a: a[2].flip(1))
    elif change == "larger":  # than the images: resized to them all the same
        last = model.classifier
        model.classifier = nn.Sequential(last, nn.Upsample(size=(96, 80)))
    else:
        model.register_forward_hook(lambda *a: {"out": a[2]["out"].flip(1)})
    x = images(torch.float32)
    fastseg.accelerate(model, image_size=None)
    with torch.no_grad():
        full = logits(model(x))
        assert_labels(fastseg.predict_labels(model, x), full)
        plain = logits(fastseg.restore(model)(x))
        assert_labels(fastseg.predict_labels(model, x), plain)
    assert torch.allclose(full, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["transformers-segformer", "transformers-convnext"])
@pytest.mark.parametrize("change", ["classifier", "head", "hook", "model"])
def test_transformers(peers: Any, name: str, change: str) -> None:
    torch.manual_seed(3)
    model: Any = make(named(name), peers).eval()
    head = model.decode_head
    if change == "classifier":
        head.classifier = nn.Sequential(head.classifier, nn.BatchNorm2d(CLASSES), Reversed()).eval()
    elif change == "head":

        class Head(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = head

            def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
                return self.inner(*args, **kwargs).flip(1)

        model.decode_head = Head()
    elif change == "hook":
        head.register_forward_hook(lambda *a: a[2].flip(1))
    else:

        def flipped(module: Any, args: Any, result: Any) -> Any:
            result.logits = result.logits.flip(1)
            return result

        model.register_forward_hook(flipped)
    x = images(torch.float32)
    fastseg.accelerate(model, image_size=None)
    with torch.no_grad():
        full = F.interpolate(logits(model(x)), x.shape[2:], mode="bilinear")
        assert_labels(fastseg.predict_labels(model, x), full)
        plain = F.interpolate(logits(fastseg.restore(model)(x)), x.shape[2:], mode="bilinear")
        assert_labels(fastseg.predict_labels(model, x), plain)


def test_hooks_of_a_wrapper(peers: Any) -> None:
    """Of DataParallel or torch.compile's module: it is called itself."""
    model = make(named("smp-pspnet"), peers).eval()
    wrapper = nn.DataParallel(model)
    wrapper.register_forward_hook(lambda *a: a[2].flip(1))
    x = images(torch.float32)
    with torch.no_grad():
        assert_labels(fastseg.predict_labels(wrapper, x), wrapper(x))
