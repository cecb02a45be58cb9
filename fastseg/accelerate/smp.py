"""segmentation_models_pytorch: whole models, ResNet encoders and decoders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..nn.altered import original_class
from ..nn.aspp import aspp_skips, aspp_unfit, run_aspp
from ..nn.chain import run
from ..nn.mlp_head import mlp_fuse
from ..nn.pyramid import run_pooled, unusual_pools
from ..nn.resized import begins_with, run_resized, run_separable, separable
from ..ops.upsample_bilinear import upsample_bilinear
from .layout import as_given, for_inference
from .swap import Swap, named, register
from .switch import low_resolution

_SMP = "segmentation_models_pytorch"
_DECODERS = f"{_SMP}.decoders"


def is_model(module: nn.Module) -> bool:
    """Whether a module is one of smp's models, with the forward that they share."""
    kind = original_class(module)
    if not kind.__module__.startswith(f"{_SMP}."):
        return False
    for base in kind.__mro__:
        if (base.__module__, base.__name__) == (f"{_SMP}.base.model", "SegmentationModel"):
            return kind.forward is base.__dict__["forward"]
    return False


def _model(self: Any, x: torch.Tensor) -> Any:
    images = for_inference(x)
    result = original_class(self).forward(self, images)
    if images is x:
        return result
    if isinstance(result, tuple):
        return (as_given(result[0], x), *result[1:])
    return as_given(result, x)


def coarse(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Logits at the decoder's resolution."""
    if not torch.compiler.is_compiling():
        self.check_input_shape(x)
    return self.segmentation_head[0](self.decoder(self.encoder(for_inference(x))))


def _head(self: Any, input: torch.Tensor) -> torch.Tensor:
    convolution, upsampling, activation = self
    logits = convolution(input)
    return logits if low_resolution(self) else activation(upsampling(logits))


def _resnet_encoder(self: Any, x: torch.Tensor) -> list[torch.Tensor]:
    features = [x]
    x = run(x, self.conv1, self.bn1, self.relu)
    features.append(x)
    stages = (nn.Sequential(self.maxpool, self.layer1), self.layer2, self.layer3, self.layer4)
    for stage in stages[: self._depth - 1]:
        x = stage(x)
        features.append(x)
    return features


def _unet_block(
    self: Any,
    feature_map: torch.Tensor,
    target_height: int,
    target_width: int,
    skip_connection: torch.Tensor | None = None,
) -> torch.Tensor:
    parts = [feature_map] if skip_connection is None else [feature_map, skip_connection]
    size = (target_height, target_width)
    x = run_resized(parts, self.conv1, size, self.interpolation_mode)
    return self.attention2(self.conv2(x))


def _unet_block_skips(self: Any) -> Iterable[nn.Module]:
    return self.conv1, self.conv1[0], self.attention1, self.attention1.attention


def _unet_block_unfit(self: Any) -> str | None:
    if self.interpolation_mode not in ("nearest", "bilinear"):
        return f"interpolation_mode is {self.interpolation_mode!r}"
    if type(self.attention1.attention) is not nn.Identity:
        return "attention needs the resized and concatenated map"
    return begins_with(self.conv1)


def _psp_decoder(self: Any, features: list[torch.Tensor]) -> torch.Tensor:
    x = features[-1]
    branches = [block.pool for block in self.psp.blocks]
    return self.dropout(run_pooled(x, branches, self.conv, input_first=False, align_corners=True))


def _psp_decoder_skips(self: Any) -> Iterable[nn.Module]:
    blocks = list(self.psp.blocks)
    pools = [block.pool for block in blocks]
    return self.psp, *blocks, *pools, *(p[0] for p in pools), self.conv, self.conv[0]


def _psp_decoder_unfit(self: Any) -> str | None:
    return unusual_pools(b.pool[0] for b in self.psp.blocks) or begins_with(self.conv)


def _deeplabv3plus_decoder(self: Any, features: list[torch.Tensor]) -> torch.Tensor:
    """The separable convolution over both maps, neither of them resized or concatenated."""
    low = self.block1(features[2])
    high = self.aspp(features[-1])
    scale = int(self.up.scale_factor)
    if (high.shape[2] * scale, high.shape[3] * scale) != (low.shape[2], low.shape[3]):
        return self.block2(torch.cat([self.up(high), low], 1))
    return run_separable([high, low], self.block2, align_corners=True)


def _deeplabv3plus_decoder_skips(self: Any) -> Iterable[nn.Module]:
    separable = self.block2[0]
    return self.up, self.block2, separable, *separable


def _deeplabv3plus_decoder_unfit(self: Any) -> str | None:
    up, (depthwise, pointwise) = self.up, self.block2[0]
    if up.mode != "bilinear" or not up.align_corners or not float(up.scale_factor).is_integer():
        return f"it upsamples with {up}"
    return separable(depthwise, pointwise)


def _upernet_psp(self: Any, feature: torch.Tensor) -> torch.Tensor:
    return run_pooled(feature, self.blocks, self.out_conv, input_first=True, align_corners=False)


def _upernet_psp_skips(self: Any) -> Iterable[nn.Module]:
    return *self.blocks, *(b[0] for b in self.blocks), self.out_conv, self.out_conv[0]


def _upernet_psp_unfit(self: Any) -> str | None:
    return unusual_pools(b[0] for b in self.blocks) or begins_with(self.out_conv)


def _upernet_decoder(self: Any, features: list[torch.Tensor]) -> torch.Tensor:
    normed = [norm(f) for norm, f in zip(self.feature_norms, features[2:], strict=True)]
    # From the coarsest to the finest.
    levels = [self.psp(normed[-1])]
    for block, lateral in zip(self.fpn_lateral_blocks, normed[-2::-1], strict=True):
        levels.append(block(levels[-1], lateral))
    outs = [levels[0]]
    outs += [block(level) for block, level in zip(self.fpn_conv_blocks, levels[1:], strict=True)]
    size = (outs[-1].shape[2], outs[-1].shape[3])
    return run_resized(outs[::-1], self.fusion_block, size)


def _upernet_decoder_skips(self: Any) -> Iterable[nn.Module]:
    return self.fusion_block, self.fusion_block[0]


def _upernet_decoder_unfit(self: Any) -> str | None:
    return begins_with(self.fusion_block)


def _segformer_decoder(self: Any, features: list[torch.Tensor]) -> torch.Tensor:
    levels = features[: -len(self.mlp_stage) - 1 : -1]  # the coarsest first
    size = (features[0].shape[2] // 4, features[0].shape[3] // 4)
    if levels[-1].shape[2:] != size:  # encoders that are not MiT have a finer one
        return original_class(self).forward(self, features)
    linears = [stage.linear for stage in self.mlp_stage]
    weights, biases = [layer.weight for layer in linears], [layer.bias for layer in linears]
    convolution, *after = self.fuse_stage
    return run(mlp_fuse(levels, weights, biases, convolution.weight, convolution.bias), *after)


def _segformer_decoder_skips(self: Any) -> Iterable[nn.Module]:
    stages = list(self.mlp_stage)
    return *stages, *(s.linear for s in stages), self.fuse_stage, self.fuse_stage[0]


def _segformer_decoder_unfit(self: Any) -> str | None:
    return begins_with(self.fuse_stage)


def _fpn_segmentation_block(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Each convolution but the first reads an upsampled map: it runs at half the resolution."""
    first, *others = self.block
    x = run(x, first.block)
    for block in others:
        size = (2 * x.shape[2], 2 * x.shape[3])
        x = run_resized([x], block.block, size, align_corners=True)
    return upsample_bilinear(x, scale_factor=2.0, align_corners=True) if first.upsample else x


def _fpn_segmentation_block_skips(self: Any) -> Iterable[nn.Module]:
    blocks = list(self.block)
    inner = [b.block for b in blocks]
    return self.block, *blocks, *inner, *(layers[0] for layers in inner)


def _fpn_segmentation_block_unfit(self: Any) -> str | None:
    blocks = list(self.block)
    if len(blocks) > 1 and not all(b.upsample for b in blocks):
        return "its blocks do not all upsample"
    return next((reason for b in blocks if (reason := begins_with(b.block))), None)


_FEATURES = ("features",)

register(
    Swap("smp.model", "channels_last inside, for inference", is_model, _model, ("x",)),
    Swap(
        "smp.head",
        "low-resolution logits on demand",
        named(f"{_SMP}.base.heads", "SegmentationHead"),
        _head,
    ),
    Swap(
        "smp.resnet_encoder",
        "batch norm and ReLU in the convolution, for inference",
        named(f"{_SMP}.encoders.resnet", "ResNetEncoder"),
        _resnet_encoder,
        ("x",),
    ),
    Swap(
        "smp.unet_block",
        "convolution of the upper map at its own resolution",
        named(f"{_DECODERS}.unet.decoder", "UnetDecoderBlock"),
        _unet_block,
        ("feature_map", "target_height", "target_width", "skip_connection"),
        _unet_block_skips,
        _unet_block_unfit,
    ),
    Swap(
        "smp.psp_decoder",
        "pooled grids through a small product instead of maps",
        named(f"{_DECODERS}.pspnet.decoder", "PSPDecoder"),
        _psp_decoder,
        _FEATURES,
        _psp_decoder_skips,
        _psp_decoder_unfit,
    ),
    Swap(
        "smp.deeplabv3plus_decoder",
        "separable convolution without the resized and concatenated maps",
        named(f"{_DECODERS}.deeplabv3.decoder", "DeepLabV3PlusDecoder"),
        _deeplabv3plus_decoder,
        _FEATURES,
        _deeplabv3plus_decoder_skips,
        _deeplabv3plus_decoder_unfit,
    ),
    Swap(
        "smp.aspp",
        "pooled branch as a bias",
        named(f"{_DECODERS}.deeplabv3.decoder", "ASPP"),
        run_aspp,
        ("x",),
        aspp_skips,
        aspp_unfit,
    ),
    Swap(
        "smp.upernet_psp",
        "pooled grids through a small product instead of maps",
        named(f"{_DECODERS}.upernet.decoder", "PSPModule"),
        _upernet_psp,
        ("feature",),
        _upernet_psp_skips,
        _upernet_psp_unfit,
    ),
    Swap(
        "smp.upernet_decoder",
        "fusing convolution at the levels' own resolutions",
        named(f"{_DECODERS}.upernet.decoder", "UPerNetDecoder"),
        _upernet_decoder,
        _FEATURES,
        _upernet_decoder_skips,
        _upernet_decoder_unfit,
    ),
    Swap(
        "smp.segformer_decoder",
        "linear layers folded into one product per level",
        named(f"{_DECODERS}.segformer.decoder", "SegformerDecoder"),
        _segformer_decoder,
        _FEATURES,
        _segformer_decoder_skips,
        _segformer_decoder_unfit,
    ),
    Swap(
        "smp.fpn_segmentation_block",
        "convolutions before their upsampling",
        named(f"{_DECODERS}.fpn.decoder", "SegmentationBlock"),
        _fpn_segmentation_block,
        ("x",),
        _fpn_segmentation_block_skips,
        _fpn_segmentation_block_unfit,
    ),
)
