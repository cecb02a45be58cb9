"""Small models of other libraries, with random weights and without dropout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

CLASSES = 5
STAGES = ["stage1", "stage2", "stage3", "stage4"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One model; `make` takes the library, `ops` are those that its exported forward has."""

    name: str
    library: str
    make: Callable[[Any], nn.Module]
    ops: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def _resnet(library: Any, **layers: str) -> Any:
    """One block per stage, dilated to stride 8."""
    resnet = library.models.resnet
    backbone = resnet.ResNet(
        resnet.Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, True]
    )
    return library.models._utils.IntermediateLayerGetter(backbone, layers)


def _deeplabv3(library: Any) -> nn.Module:
    segmentation = library.models.segmentation
    return segmentation.deeplabv3.DeepLabV3(
        _resnet(library, layer3="aux", layer4="out"),
        segmentation.deeplabv3.DeepLabHead(2048, CLASSES, (2, 3, 4)),
        segmentation.fcn.FCNHead(1024, CLASSES),
    )


def _fcn(library: Any) -> nn.Module:
    segmentation = library.models.segmentation
    return segmentation.fcn.FCN(
        _resnet(library, layer4="out"), segmentation.fcn.FCNHead(2048, CLASSES)
    )


def _lraspp(library: Any) -> nn.Module:
    return library.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES
    )


def _smp(name: str, encoder: str = "resnet18", **options: Any) -> Callable[[Any], nn.Module]:
    def make(library: Any) -> nn.Module:
        arguments = {"encoder_weights": None, "classes": CLASSES, **options}
        return getattr(library, name)(encoder, **arguments)

    return make


def _segformer(library: Any) -> nn.Module:
    config = library.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1] * 4,
        num_attention_heads=[1, 1, 2, 4],
        decoder_hidden_size=64,
        num_labels=CLASSES,
    )
    return library.SegformerForSemanticSegmentation(config)


def _upernet(library: Any, backbone: Any) -> nn.Module:
    config = library.UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        auxiliary_channels=8,
        auxiliary_in_channels=32,
        num_labels=CLASSES,
    )
    return library.UperNetForSemanticSegmentation(config)


def _convnext(library: Any) -> nn.Module:
    return _upernet(
        library,
        library.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1] * 4, out_features=STAGES),
    )


def _swin(library: Any) -> nn.Module:
    return _upernet(
        library,
        library.SwinConfig(
            embed_dim=8,
            depths=[1] * 4,
            num_heads=[1, 1, 2, 4],
            window_size=4,
            out_features=STAGES,
        ),
    )


SMP = "segmentation_models_pytorch"
CASES = (
    Case("torchvision-deeplabv3", "torchvision", _deeplabv3, ("upsample_bilinear",)),
    Case("torchvision-fcn", "torchvision", _fcn, ("upsample_bilinear",)),
    Case("torchvision-lraspp", "torchvision", _lraspp, ("dilated_conv2d", "upsample_bilinear")),
    Case("smp-unet", SMP, _smp("Unet", decoder_channels=(64, 32, 16, 16, 8))),
    Case("smp-pspnet", SMP, _smp("PSPNet"), ("pyramid_pool",)),
    Case("smp-deeplabv3", SMP, _smp("DeepLabV3", decoder_channels=32), ("upsample_bilinear",)),
    Case("smp-deeplabv3plus", SMP, _smp("DeepLabV3Plus", "mobilenet_v2"), ("dilated_conv2d",)),
    Case("smp-upernet", SMP, _smp("UPerNet", decoder_channels=32), ("upsample_taps",)),
    Case("smp-segformer", SMP, _smp("Segformer", "mit_b0"), ("upsample_taps",)),
    Case("smp-fpn", SMP, _smp("FPN"), ("upsample_bilinear",)),
    Case("transformers-segformer", "transformers", _segformer, ("upsample_taps",)),
    Case("transformers-convnext", "transformers", _convnext, ("upsample_bilinear",)),
    Case("transformers-swin", "transformers", _swin, ("upsample_bilinear",)),
)


def make(case: Case, peers: Any) -> nn.Module:
    """The model of a case, without anything random in its forward."""
    model = case.make(peers(case.library))
    for module in model.modules():
        kind = type(module).__name__
        if "Dropout" in kind:
            module.p = 0.0
        if "DropPath" in kind:
            module.drop_prob = 0.0
    return model


def images(dtype: torch.dtype = torch.float64, size: int = 64, batch: int = 2) -> torch.Tensor:
    """A model's input."""
    return torch.randn(batch, 3, size, size, dtype=torch.float64).to(dtype)


def outputs(result: Any) -> torch.Tensor:
    """Every tensor that a model returned, as one vector."""
    if isinstance(result, torch.Tensor):
        return result.flatten()
    values = list(result.values()) if isinstance(result, dict) else list(result)
    return torch.cat([outputs(v) for v in values if v is not None])


def logits(result: Any) -> torch.Tensor:
    """The logits of what a model returned."""
    if isinstance(result, torch.Tensor):
        return result
    return result["out"] if "out" in result else result["logits"]
