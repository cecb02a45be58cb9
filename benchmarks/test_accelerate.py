"""Models of torchvision, smp and transformers before and after fastseg.accelerate.

The same weights (random ones) in one process; each case is checked before it is timed. `forward`:
the model's own output. `labels`: the forward and argmax against fastseg.predict_labels. `train`:
forward, loss and backward, against cross-entropy of full-resolution logits. All variants run in
both memory formats; ratios compare the best with the best. PSPNet, which none of these libraries
has as the paper does, is fastseg's own against its parameters run by PyTorch's modules and
functions.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from race import FORMATS, race
from test_models import PlainPSPNet
from torch import nn

import fastseg
from fastseg.bench.cases import as_word
from fastseg.bench.timing import Variant
from fastseg.models import PSPNet
from fastseg.testing import relative_error
from fastseg.testing.peers import declare_torchvision_ops

CLASSES = 150


@dataclasses.dataclass(frozen=True)
class ModelCase:
    """One model and size; `make` takes its library."""

    name: str
    library: str
    make: Callable[[Any], nn.Module]
    size: int
    batches: dict[str, int]
    quick: bool = False

    def __str__(self) -> str:
        return self.name


def _segformer(depths: list[int]) -> Callable[[Any], nn.Module]:
    def make(library: Any) -> nn.Module:
        config = library.SegformerConfig(
            hidden_sizes=[64, 128, 320, 512],
            depths=depths,
            decoder_hidden_size=768,
            num_labels=CLASSES,
        )
        return library.SegformerForSemanticSegmentation(config)

    return make


def _upernet_convnext(library: Any) -> nn.Module:
    backbone = library.ConvNextConfig(
        depths=[3, 3, 9, 3],
        hidden_sizes=[96, 192, 384, 768],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = library.UperNetConfig(
        backbone_config=backbone, auxiliary_in_channels=384, num_labels=CLASSES
    )
    return library.UperNetForSemanticSegmentation(config)


def _deeplabv3(library: Any) -> nn.Module:
    return library.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )


def _unet(library: Any) -> nn.Module:
    return library.Unet("resnet34", encoder_weights=None, classes=19)


def _pspnet(_: Any) -> nn.Module:
    return PSPNet.dilated("resnet101", classes=CLASSES)


CPU = (
    ModelCase("SegFormer-B2 512", "transformers", _segformer([3, 4, 6, 3]), 512, {}, quick=True),
    ModelCase("SegFormer-B5 512", "transformers", _segformer([3, 6, 40, 3]), 512, {}),
    ModelCase("UPerNet-ConvNeXt-T 512", "transformers", _upernet_convnext, 512, {}),
    ModelCase("torchvision DeepLabV3-R50 520", "torchvision", _deeplabv3, 520, {}),
    ModelCase("smp Unet-R34 512", "segmentation_models_pytorch", _unet, 512, {}),
    ModelCase("PSPNet-R101 713", "torch", _pspnet, 713, {"labels": 1, "train": 2}),
)
GPU = tuple(
    dataclasses.replace(
        case, batches={what: 8 for what in case.batches or ("forward", "labels", "train")}
    )
    for case in CPU
)
BATCHES = {"forward": 1, "labels": 1, "train": 2}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = torch.cuda.is_available() and not metafunc.config.getoption("--cpu")
    cases = GPU if on_gpu else CPU
    if metafunc.config.getoption("--quick"):
        cases = tuple(case for case in cases if case.quick)
    runs = [(case, what) for case in cases for what in case.batches or BATCHES]
    metafunc.parametrize(("model_case", "what"), runs, ids=[as_word(f"{c} {w}") for c, w in runs])
    metafunc.parametrize("device", ["cuda" if on_gpu else "cpu"])


def test_accelerate(
    model_case: ModelCase,
    what: str,
    device: str,
    benchmark: Any,
    say: Callable[[str], None],
    pytestconfig: pytest.Config,
) -> None:
    declare_torchvision_ops()
    pytest.importorskip(model_case.library)
    theirs, ours, loss = _pair(model_case, what)
    batch = (model_case.batches or BATCHES)[what]
    shape = (batch, 3, model_case.size, model_case.size)
    x = torch.randn(shape, device=device)
    target = torch.randint(0, 19, (shape[0], *shape[2:]), device=device)
    variants = []
    for label, model in (("peer", theirs), ("fastseg", ours)):
        model = model.to(device).train(what == "train")
        for name, layout in FORMATS.items():
            images = x.contiguous(memory_format=layout)
            step = _step(label, what, model, images, target, loss)
            variants.append(Variant(f"{label} {name}", step))
    _check(variants, what)
    race(
        f"{model_case} {what}",
        variants,
        peer="peer",
        device=device,
        budget_s=2.0 if pytestconfig.getoption("--quick") else 20.0,
        group="accelerate",
        benchmark=benchmark,
        say=say,
    )


def _pair(case: ModelCase, what: str) -> tuple[nn.Module, nn.Module, Any]:
    """The model as it is, the accelerated one, and the latter's loss."""
    torch.manual_seed(0)
    model = case.make(importlib.import_module(case.library))
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    if isinstance(model, PSPNet):
        return PlainPSPNet(model), model, None
    ours = copy.deepcopy(model)
    low = what == "train" and case.library != "transformers"
    report = fastseg.accelerate(ours, low_resolution=low, image_size=None)
    return model, ours, report.loss_fn


def _step(
    label: str, what: str, model: Any, x: torch.Tensor, target: torch.Tensor, loss_fn: Any
) -> Callable[[Any], torch.Tensor]:
    """One call, which returns logits, labels or the loss."""

    def logits(result: Any) -> torch.Tensor:
        if isinstance(result, torch.Tensor):
            return result
        return result["logits"] if "logits" in result else result["out"]

    @torch.no_grad()
    def forward(_: Any) -> torch.Tensor:
        return logits(model(x))

    @torch.no_grad()
    def labels(_: Any) -> torch.Tensor:
        if label == "fastseg":
            return fastseg.predict_labels(model, x)
        y = logits(model(x))
        if y.shape[2:] != x.shape[2:]:
            y = F.interpolate(y, x.shape[2:], mode="bilinear")
        return y.argmax(1)

    def train(_: Any) -> torch.Tensor:
        model.zero_grad()
        if isinstance(model, PSPNet):
            loss = model.loss(x, target)
        elif hasattr(model, "config_class"):  # of transformers
            loss = model(x, labels=target).loss
        elif label == "fastseg":
            loss = loss_fn(model(x), target)
        else:
            loss = _cross_entropy(model(x), target)
        loss.backward()
        return loss.detach()

    return {"forward": forward, "labels": labels, "train": train}[what]


def _cross_entropy(result: Any, target: torch.Tensor) -> torch.Tensor:
    if isinstance(result, torch.Tensor):
        return F.cross_entropy(result, target, ignore_index=255)
    main, auxiliary, share = (
        (*result, 0.4) if isinstance(result, tuple) else (result["out"], result["aux"], 0.5)
    )
    losses = [F.cross_entropy(y, target, ignore_index=255) for y in (main, auxiliary)]
    return losses[0] + share * losses[1]


def _check(variants: list[Variant], what: str) -> None:
    """All variants have the same logits, labels (but for ties to rounding) or loss."""
    results = {v.label: v.run(None) for v in variants}
    truth = results["peer NCHW"]
    for label, result in results.items():
        if what == "labels":
            assert float((result == truth).double().mean()) > 0.999, label
        else:
            assert relative_error(result, truth) < 1e-4, label
