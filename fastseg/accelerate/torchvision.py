"""torchvision's FCN, DeepLabV3 and LR-ASPP."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..nn.aspp import aspp_skips, aspp_unfit, run_aspp
from ..nn.chain import run, run_residual
from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.upsample_conv2d import upsample_conv2d
from .layout import as_given, for_inference
from .swap import Swap, named, register
from .switch import low_resolution

_SEGMENTATION = "torchvision.models.segmentation"


def is_model(module: nn.Module) -> bool:
    """Whether a module is torchvision's FCN or DeepLabV3."""
    return _IS_DEEPLAB(module) or _IS_FCN(module)


_IS_DEEPLAB = named(f"{_SEGMENTATION}.deeplabv3", "DeepLabV3")
_IS_FCN = named(f"{_SEGMENTATION}.fcn", "FCN")


def _model(self: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    result = coarse(self, x)
    if low_resolution(self):
        return result
    size = (x.shape[2], x.shape[3])
    return OrderedDict((k, upsample_bilinear(v, size)) for k, v in result.items())


def coarse(self: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits "out", and "aux" where the model has them, at the network's own resolution."""
    features = self.backbone(for_inference(x))
    result = OrderedDict(out=as_given(self.classifier(features["out"]), x))
    if self.aux_classifier is not None:
        result["aux"] = as_given(self.aux_classifier(features["aux"]), x)
    return result


def _lraspp_model(self: Any, input: torch.Tensor) -> dict[str, torch.Tensor]:
    out = lraspp_coarse(self, input)
    if not low_resolution(self):
        out = upsample_bilinear(out, (input.shape[2], input.shape[3]))
    return OrderedDict(out=out)


def lraspp_coarse(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Logits of LR-ASPP at the resolution of its low-level features."""
    return as_given(self.classifier(self.backbone(for_inference(x))), x)


def _lraspp_head(self: Any, input: dict[str, torch.Tensor]) -> torch.Tensor:
    """Both classifiers as one convolution, the upper one at its own resolution."""
    low, high = input["low"], input["high"]
    gated = self.cbr(high) * self.scale(high)
    weight = torch.cat([self.low_classifier.weight, self.high_classifier.weight], 1)
    bias = self.low_classifier.bias + self.high_classifier.bias
    return upsample_conv2d([low, gated], weight, bias, (low.shape[2], low.shape[3]))


def _lraspp_head_skips(self: Any) -> Iterable[nn.Module]:
    return self.low_classifier, self.high_classifier


def _lraspp_head_unfit(self: Any) -> str | None:
    for layer in _lraspp_head_skips(self):
        if layer.kernel_size != (1, 1) or layer.bias is None or layer.groups != 1:
            return "its classifiers are no 1x1 convolutions with bias"
    return None


def _layers(self: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """IntermediateLayerGetter, with convolution, norm and activation run together."""
    out = OrderedDict()
    waiting: list[nn.Module] = []
    for name, module in self.items():
        waiting.append(module)
        if name in self.return_layers or not isinstance(module, _SIMPLE):
            x = run(x, *waiting)
            waiting = []
        if name in self.return_layers:
            out[self.return_layers[name]] = x
    return out


_SIMPLE = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)


def _basic_block(self: Any, x: torch.Tensor) -> torch.Tensor:
    layers = (self.conv1, self.bn1, self.relu, self.conv2, self.bn2)
    return run_residual(x, layers, self.downsample, self.relu)


def _bottleneck(self: Any, x: torch.Tensor) -> torch.Tensor:
    first = (self.conv1, self.bn1, self.relu)
    layers = (*first, self.conv2, self.bn2, self.relu, self.conv3, self.bn3)
    return run_residual(x, layers, self.downsample, self.relu)


register(
    Swap(
        "torchvision.model",
        "upsampling of the logits; channels_last inside, for inference",
        is_model,
        _model,
        ("x",),
    ),
    Swap(
        "torchvision.lraspp",
        "upsampling of the logits; channels_last inside, for inference",
        named(f"{_SEGMENTATION}.lraspp", "LRASPP"),
        _lraspp_model,
        ("input",),
    ),
    Swap(
        "torchvision.lraspp_head",
        "classifier of the upper features at their own resolution",
        named(f"{_SEGMENTATION}.lraspp", "LRASPPHead"),
        _lraspp_head,
        ("input",),
        _lraspp_head_skips,
        _lraspp_head_unfit,
    ),
    Swap(
        "torchvision.aspp",
        "pooled branch as a bias",
        named(f"{_SEGMENTATION}.deeplabv3", "ASPP"),
        run_aspp,
        ("x",),
        aspp_skips,
        aspp_unfit,
    ),
    Swap(
        "torchvision.layers",
        "batch norm and ReLU in the convolution, for inference",
        named("torchvision.models._utils", "IntermediateLayerGetter"),
        _layers,
        ("x",),
    ),
    Swap(
        "torchvision.basic_block",
        "batch norm and ReLU in the convolution, for inference",
        named("torchvision.models.resnet", "BasicBlock"),
        _basic_block,
        ("x",),
    ),
    Swap(
        "torchvision.bottleneck",
        "batch norm and ReLU in the convolution, for inference",
        named("torchvision.models.resnet", "Bottleneck"),
        _bottleneck,
        ("x",),
    ),
)
