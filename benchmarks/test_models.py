"""Whole models on a CPU against those of other libraries, or plain PyTorch's, with the same weights
in one process. (On a GPU: test_models_gpu.py.)

Each case is checked before it is timed. `predict`: an image to its label map, against forward and
argmax. `train`: forward, loss and backward, against cross-entropy of full-resolution logits. All
variants run in both memory formats; ratios compare the best with the best. smp takes only multiples
of the output stride, so that its cases are at 512 pixels where papers have 513.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_models import PlainPSPNet
from race import FORMATS, race
from torch import nn

import fastseg
from fastseg.bench.cases import as_word
from fastseg.bench.timing import Variant
from fastseg.models import PSPNet, SegmentationModel
from fastseg.nn.dot_product import DropPath
from fastseg.testing import relative_error
from fastseg.testing.peers import declare_torchvision_ops

CLASSES = 21


@dataclasses.dataclass(frozen=True)
class ModelCase:
    """One model and size; `peer` makes the model it is compared with."""

    name: str
    model: Callable[[], SegmentationModel]
    peer: Callable[[SegmentationModel], nn.Module]
    size: int
    batches: dict[str, int]
    quick: bool = False

    def __str__(self) -> str:
        return self.name


class Torchvision(nn.Module):
    """A network of torchvision, its outputs as the others give them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> Any:
        maps = self.network(x)
        return (maps["out"], maps["aux"]) if self.training else maps["out"]


def _torchvision(name: str) -> Any:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    declare_torchvision_ops()
    from torchvision.models import segmentation

    torch.manual_seed(0)
    return getattr(segmentation, name)(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    )


def _smp(name: str, encoder: str) -> Callable[[SegmentationModel], nn.Module]:
    def make(model: SegmentationModel) -> nn.Module:
        if importlib.util.find_spec("segmentation_models_pytorch") is None:
            pytest.skip("segmentation_models_pytorch is not installed")
        declare_torchvision_ops()
        import segmentation_models_pytorch as smp

        peer = getattr(smp, name)(encoder, encoder_weights=None, classes=CLASSES)
        peer.load_state_dict(model.state_dict())
        return peer

    return make


class Transformers(nn.Module):
    """A network of transformers, its logits at the size of the images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.network(x).logits
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


def _transformers(name: str, **config: Any) -> Any:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    declare_torchvision_ops()
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, f"{name}Config")(num_labels=150, **config)
    return getattr(transformers, f"{name}ForSemanticSegmentation")(made)


def _segformer(name: str, depths: list[int], wide: bool) -> ModelCase:
    """SegFormer with 150 classes, against transformers'."""
    config: dict[str, Any] = {"depths": depths}
    if wide:
        config |= {"hidden_sizes": [64, 128, 320, 512], "decoder_hidden_size": 768}
    return ModelCase(
        f"SegFormer-{name} 512",
        lambda: fastseg.load_checkpoint(_transformers("Segformer", **config).state_dict()),
        lambda _: Transformers(_transformers("Segformer", **config)),
        512,
        {"predict": 1, "train": 2},
    )


def _plus(encoder: str) -> Callable[[], SegmentationModel]:
    return lambda: fastseg.DeepLabV3Plus(encoder, encoder_weights=None, classes=CLASSES)


def _dilated(encoder: str) -> Callable[[], SegmentationModel]:
    return lambda: PSPNet.dilated(encoder, classes=CLASSES)


TORCHVISION = "deeplabv3_resnet50"
CASES = (
    ModelCase(
        "DeepLabV3Plus-MobileNetV2 512",
        _plus("mobilenet_v2"),
        _smp("DeepLabV3Plus", "mobilenet_v2"),
        512,
        {"predict": 1, "train": 2},
        quick=True,
    ),
    ModelCase(
        "DeepLabV3Plus-R50 512",
        _plus("resnet50"),
        _smp("DeepLabV3Plus", "resnet50"),
        512,
        {"predict": 1, "train": 2},
    ),
    ModelCase(
        "PSPNet-R50 dilated 473",
        _dilated("resnet50"),
        PlainPSPNet,
        473,
        {"predict": 1, "train": 2},
    ),
    ModelCase(
        "Unet-R34 512",
        lambda: fastseg.Unet("resnet34", encoder_weights=None, classes=CLASSES),
        _smp("Unet", "resnet34"),
        512,
        {"predict": 1, "train": 2},
    ),
    ModelCase(
        "torchvision FCN-R50 520",
        lambda: fastseg.load_checkpoint(_torchvision("fcn_resnet50").state_dict()),
        lambda _: Torchvision(_torchvision("fcn_resnet50")),
        520,
        {"predict": 1, "train": 2},
    ),
    ModelCase(
        "torchvision DeepLabV3-R50 520",
        lambda: fastseg.load_checkpoint(_torchvision(TORCHVISION).state_dict()),
        lambda _: Torchvision(_torchvision(TORCHVISION)),
        520,
        {"predict": 1, "train": 2},
    ),
    _segformer("B0", [2, 2, 2, 2], wide=False),
    _segformer("B2", [3, 4, 6, 3], wide=True),
    _segformer("B5", [3, 6, 40, 3], wide=True),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = torch.cuda.is_available() and not metafunc.config.getoption("--cpu")
    quick = metafunc.config.getoption("--quick")
    cases = () if on_gpu else tuple(case for case in CASES if case.quick or not quick)
    metafunc.parametrize("model_case", cases, ids=as_word)


@pytest.mark.parametrize("what", ["predict", "train"])
def test_models(
    model_case: ModelCase,
    what: str,
    benchmark: Any,
    say: Callable[[str], None],
    pytestconfig: pytest.Config,
) -> None:
    torch.manual_seed(0)
    ours = model_case.model()
    peer = model_case.peer(ours)
    for module in (*ours.modules(), *peer.modules()):
        if isinstance(module, nn.modules.dropout._DropoutNd | DropPath):
            module.p = 0.0
        elif type(module).__name__ == "SegformerDropPath":
            module.drop_prob = 0.0
    shape = (model_case.batches[what], 3, model_case.size, model_case.size)
    x = torch.randn(shape)
    target = torch.randint(0, CLASSES, (shape[0], *shape[2:]))
    variants = []
    for name, layout in FORMATS.items():
        images = x.contiguous(memory_format=layout)
        for label, model in (("fastseg", ours), ("peer", peer)):
            model = copy.deepcopy(model).to(memory_format=layout).train(what == "train")
            step = _step(label, what, model, images, target)
            variants.append(Variant(f"{label} {name}", step))
    _check(variants, what)
    race(
        f"{model_case} {what}",
        variants,
        peer="peer",
        device="cpu",
        budget_s=2.0 if pytestconfig.getoption("--quick") else 20.0,
        group="models",
        benchmark=benchmark,
        say=say,
    )


def _step(
    label: str, what: str, model: Any, x: torch.Tensor, target: torch.Tensor
) -> Callable[[Any], torch.Tensor]:
    """One call, which returns labels or the loss."""

    def predict(_: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.predict_labels(x) if label == "fastseg" else model(x).argmax(1)

    def train(_: Any) -> torch.Tensor:
        model.zero_grad()
        if label == "fastseg":
            loss = model.loss(x, target)
        else:
            outputs = model(x)
            parts = outputs if isinstance(outputs, tuple) else (outputs,)
            losses = [F.cross_entropy(part, target, ignore_index=255) for part in parts]
            loss = losses[0] + sum(0.4 * other for other in losses[1:])
        loss.backward()
        return loss.detach()

    return predict if what == "predict" else train


def _check(variants: list[Variant], what: str) -> None:
    """All variants have the same labels, ties to rounding left out, or the same loss."""
    results = {v.label: v.run(None) for v in variants}
    truth = results["peer NCHW"]
    for label, result in results.items():
        if what == "predict":
            assert float((result == truth).double().mean()) > 0.999, label
        else:
            assert relative_error(result, truth) < 1e-4, label
