"""Encoders: networks from images to features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .base import Encoder
from .mit import MixTransformerEncoder
from .mobilenet_v2 import MobileNetV2Encoder
from .mobilenet_v3 import MobileNetV3Encoder
from .preprocessing import get_preprocessing_fn, get_preprocessing_params
from .pretrained import load_weights
from .resnet import BasicBlock, Bottleneck, ResNetEncoder
from .swin import SWIN_VARIANTS, SwinEncoder
from .timm_encoder import PREFIX, TimmEncoder
from .vgg import VGG_COUNTS, VGGEncoder

__all__ = [
    "ENCODERS",
    "MIT_VARIANTS",
    "SWIN_VARIANTS",
    "Encoder",
    "MixTransformerEncoder",
    "MobileNetV2Encoder",
    "MobileNetV3Encoder",
    "ResNetEncoder",
    "SwinEncoder",
    "TimmEncoder",
    "VGGEncoder",
    "get_preprocessing_fn",
    "get_preprocessing_params",
    "make_encoder",
]

# Source: Xie et al., SegFormer, 2021, table 6.
_WIDE = (64, 128, 320, 512)
# Name -> blocks and channels of the four stages.
MIT_VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mit_b0": ((2, 2, 2, 2), (32, 64, 160, 256)),
    "mit_b1": ((2, 2, 2, 2), _WIDE),
    "mit_b2": ((3, 4, 6, 3), _WIDE),
    "mit_b3": ((3, 4, 18, 3), _WIDE),
    "mit_b4": ((3, 8, 27, 3), _WIDE),
    "mit_b5": ((3, 6, 40, 3), _WIDE),
}

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "resnet18": partial(ResNetEncoder, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNetEncoder, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNetEncoder, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNetEncoder, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(ResNetEncoder, Bottleneck, (3, 8, 36, 3)),
    "mobilenet_v2": MobileNetV2Encoder,
    "mobilenet_v3_large": MobileNetV3Encoder,
    **{
        name: partial(MixTransformerEncoder, depths=depths, widths=widths)
        for name, (depths, widths) in MIT_VARIANTS.items()
    },
    **{
        name: partial(SwinEncoder, width=width, depths=depths, heads=heads)
        for name, (width, depths, heads) in SWIN_VARIANTS.items()
    },
    **{
        name + ("_bn" if norm else ""): partial(VGGEncoder, counts, norm)
        for name, counts in VGG_COUNTS.items()
        for norm in (False, True)
    },
}


def make_encoder(
    name: str,
    in_channels: int = 3,
    depth: int = 5,
    weights: str | None = None,
    output_stride: int = 32,
    **options: Any,
) -> Encoder:
    """Makes an encoder from its name.

    Args:
        name: key of `ENCODERS`, or "tu-" and the name of a network of timm.
        in_channels: of the image. With weights of 3 channels and another number here, those of the
            first convolution are repeated (summed for 1) and scaled to keep the activations' size.
        depth: number of halvings, 1 to 5.
        weights: None for random ones; "imagenet" (of resnet18 and resnet50 also "ssl" and "swsl")
            for those of the Hugging Face hub's smp-hub/<name>.<weights>; "owner/name" of another
            repository with our names; or the path of a file of torch.save or safetensors with
            them, which are torchvision's or smp's. Those of timm: see `TimmEncoder`.
        output_stride: 8, 16 or 32: later halvings become dilation.
        **options: further arguments of this encoder.

    Returns:
        The encoder, a module from images to a list of features, finest first.

    Raises:
        ValueError: no such encoder, arguments out of range, or weights that cannot be loaded.
    """
    if name == PREFIX:
        raise ValueError(
            "the encoder is one of timm's, and no tensor tells which: pass encoder_name='tu-NAME'"
        )
    if name.startswith(PREFIX):
        inner = name[len(PREFIX) :]
        return TimmEncoder(inner, in_channels, depth, output_stride, weights, **options)
    if name not in ENCODERS:
        raise ValueError(
            f"encoder_name is {name!r}, allowed are {', '.join(ENCODERS)}, and 'tu-' with the name "
            f"of a network of timm{_instead(name)}"
        )
    encoder = ENCODERS[name](
        in_channels=in_channels, depth=depth, output_stride=output_stride, **options
    )
    if weights is not None:
        load_weights(encoder, name, weights)
    return encoder


def _instead(name: str) -> str:
    """What to take for an encoder that smp builds by itself, or takes from timm by another name."""
    if name.startswith(("efficientnet-b", "timm-")):
        theirs = name.removeprefix("timm-").replace("-", "_")
        return f"; in place of smp's {name} take 'tu-{theirs}', with other names of tensors"
    return ""
