"""torchvision's FCN, DeepLabV3 and LR-ASPP, and its ResNets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..nn.aspp import aspp_skips, aspp_unfit, run_aspp
from ..nn.chain import run, run_residual
from ..nn.resized import resizable
from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.upsample_conv2d import upsample_conv2d
from .layout import as_given, for_inference
from .library import Library
from .model import Model
from .swap import Swap
from .switch import low_resolution

_SEGMENTATION = "torchvision.models.segmentation"
_FOLDED = "batch norm and ReLU in the convolution, for inference"


class Segmenter(Model):
    """FCN and DeepLabV3: a backbone, a classifier and perhaps an auxiliary one."""

    what = "upsampling of the logits; channels_last inside, for inference"
    classes = (f"{_SEGMENTATION}.deeplabv3.DeepLabV3", f"{_SEGMENTATION}.fcn.FCN")

    def forward(self, module: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = module.backbone(for_inference(x))
        result = OrderedDict(out=as_given(module.classifier(features["out"]), x))
        if module.aux_classifier is not None:
            result["aux"] = as_given(module.aux_classifier(features["aux"]), x)
        if low_resolution(module):
            return result
        size = (x.shape[2], x.shape[3])
        return OrderedDict((k, upsample_bilinear(v, size)) for k, v in result.items())

    def coarse(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.classifier(model.backbone(for_inference(x))["out"])


class Lraspp(Model):
    """LR-ASPP, whose logits are at the resolution of its low-level features."""

    what = "upsampling of the logits; channels_last inside, for inference"
    classes = (f"{_SEGMENTATION}.lraspp.LRASPP",)

    def forward(self, module: Any, input: torch.Tensor) -> dict[str, torch.Tensor]:
        out = as_given(self.coarse(module, input), input)
        if not low_resolution(module):
            out = upsample_bilinear(out, (input.shape[2], input.shape[3]))
        return OrderedDict(out=out)

    def coarse(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.classifier(model.backbone(for_inference(x)))


class LrasppHead(Swap):
    """Both classifiers as one convolution, the upper one at its own resolution."""

    what = "classifier of the upper features at their own resolution"
    classes = (f"{_SEGMENTATION}.lraspp.LRASPPHead",)

    def forward(self, module: Any, input: dict[str, torch.Tensor]) -> torch.Tensor:
        low, high = input["low"], input["high"]
        gated = module.cbr(high) * module.scale(high)
        weight = torch.cat([module.low_classifier.weight, module.high_classifier.weight], 1)
        bias = module.low_classifier.bias + module.high_classifier.bias
        return upsample_conv2d([low, gated], weight, bias, (low.shape[2], low.shape[3]))

    def skips(self, module: Any) -> Iterable[nn.Module]:
        return module.low_classifier, module.high_classifier

    def unfit(self, module: Any) -> str | None:
        for layer in self.skips(module):
            if layer.kernel_size != (1, 1) or layer.bias is None:
                return "its classifiers are no 1x1 convolutions with bias"
            if why := resizable(layer):
                return why
        return None


class Aspp(Swap):
    """ASPP whose pooled branch is a bias of the projection instead of a map."""

    what = "pooled branch as a bias"
    classes = (f"{_SEGMENTATION}.deeplabv3.ASPP",)

    def forward(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        return run_aspp(module, x)

    def skips(self, module: Any) -> Iterable[nn.Module]:
        return aspp_skips(module)

    def unfit(self, module: Any) -> str | None:
        return aspp_unfit(module)


class Layers(Swap):
    """IntermediateLayerGetter, with convolution, norm and activation run together."""

    what = _FOLDED
    classes = ("torchvision.models._utils.IntermediateLayerGetter",)

    def forward(self, module: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
        out = OrderedDict()
        waiting: list[nn.Module] = []
        for name, layer in module.items():
            waiting.append(layer)
            if name in module.return_layers or not isinstance(layer, _RUN_TOGETHER):
                x = run(x, *waiting)
                waiting = []
            if name in module.return_layers:
                out[module.return_layers[name]] = x
        return out


_RUN_TOGETHER = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)


class BasicBlock(Swap):
    """ResNet-18's and 34's block."""

    what = _FOLDED
    classes = ("torchvision.models.resnet.BasicBlock",)

    def forward(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        layers = (module.conv1, module.bn1, module.relu, module.conv2, module.bn2)
        return run_residual(x, layers, module.downsample, module.relu)


class Bottleneck(Swap):
    """The block of ResNet-50 and deeper ones."""

    what = _FOLDED
    classes = ("torchvision.models.resnet.Bottleneck",)

    def forward(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        first = (module.conv1, module.bn1, module.relu)
        layers = (*first, module.conv2, module.bn2, module.relu, module.conv3, module.bn3)
        return run_residual(x, layers, module.downsample, module.relu)


LIBRARY = Library(
    name="torchvision",
    tested="0.28",
    packages=(f"{_SEGMENTATION}.",),
    swaps=(
        Segmenter(),
        Lraspp(),
        LrasppHead(),
        Aspp(),
        Layers(),
        BasicBlock(),
        Bottleneck(),
    ),
)
