"""segmentation_models_pytorch: whole models, ResNet encoders and decoders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..nn.altered import has_hooks, original_class
from ..nn.chain import is_sequence, run
from ..nn.mlp_head import run_mlp, unusual_mlp
from ..nn.pyramid import run_pooled, unusual_branches
from ..nn.resized import begins_with, run_resized, run_separable, separable
from ..nn.unet import run_unet_block, unet_skips, unet_unfit
from ..nn.upernet import top_down
from ..ops.upsample_bilinear import upsample_bilinear
from . import torchvision
from .layout import as_given, for_inference
from .library import Library
from .loss import Loss
from .model import Model
from .swap import Swap, full_name
from .switch import low_resolution

_SMP = "segmentation_models_pytorch"
_DECODERS = f"{_SMP}.decoders"


class Segmenter(Model):
    """Every model with the forward of smp's base class: encoder, decoder, head."""

    what = "channels_last inside, for inference"
    classes = (f"{_SMP}.base.model.SegmentationModel",)
    subclasses = True

    def forward(self, module: Any, x: torch.Tensor) -> Any:
        images = for_inference(x)
        result = original_class(module).forward(module, images)
        if images is x:
            return result
        if isinstance(result, tuple):
            return (as_given(result[0], x), *result[1:])
        return as_given(result, x)

    def coarse(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():
            model.check_input_shape(x)
        return model.segmentation_head[0](model.decoder(model.encoder(for_inference(x))))

    def loss(self, model: Any) -> Loss:
        return Loss(align_corners=True)

    def size(self, model: Any, x: torch.Tensor, logits: torch.Tensor) -> tuple[int, int]:
        upsampling = model.segmentation_head[1]
        factor = 1 if isinstance(upsampling, nn.Identity) else int(upsampling.scale_factor)
        return logits.shape[2] * factor, logits.shape[3] * factor

    def switch(self, model: Any) -> nn.Module | None:
        return model.segmentation_head

    def no_logits(self, model: Any) -> str | None:
        return _no_logits(model.segmentation_head)

    def no_labels(self, model: Any) -> str | None:
        head = model.segmentation_head
        if has_hooks(head):
            return "its head has hooks"
        if why := _unusual_head(head):
            return why
        activation = _activation(head)
        over_classes = type(activation) in (nn.Softmax, nn.LogSoftmax) and activation.dim == 1
        if over_classes or type(activation) in (nn.Identity, nn.Sigmoid, nn.Tanh):
            return None
        return f"its head ends with {activation}"

    def threshold(self, model: Any) -> float | None:
        last: Any = model.segmentation_head
        while is_sequence(last) or full_name(original_class(last)) == _ACTIVATION:
            last = list(last.children())[-1]
        if has_hooks(last) or "forward" in vars(last):
            return None
        return next((value for kinds, value in _THRESHOLDS if type(last) in kinds), None)


class Head(Swap):
    """Convolution, upsampling and activation; low resolution keeps the convolution alone."""

    what = "low-resolution logits on demand"
    classes = (f"{_SMP}.base.heads.SegmentationHead",)

    def forward(self, module: Any, input: torch.Tensor) -> torch.Tensor:
        if low_resolution(module):
            return module[0](input)
        return original_class(module).forward(module, input)

    def unfit(self, module: Any) -> str | None:
        return _no_logits(module) if low_resolution(module) else None


_ACTIVATION = f"{_SMP}.base.modules.Activation"
# Threshold of a single output, by the layer that it comes from.
_THRESHOLDS = (
    ((nn.Sigmoid,), 0.5),
    ((nn.Conv2d, nn.ConvTranspose2d, nn.Identity, nn.Upsample, nn.UpsamplingBilinear2d), 0.0),
    ((nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Tanh, nn.UpsamplingNearest2d), 0.0),
)


def _unusual_head(head: Any) -> str | None:
    """Why a head is not smp's convolution, bilinear upsampling and activation, or None."""
    kind = original_class(head)
    if full_name(kind) not in Head.classes:
        return f"its head is a {kind.__name__}"
    if len(head) != 3:
        return f"its head has {len(head)} layers"
    parts = (head[1], head[2], _activation(head))
    if "forward" in vars(head) or any("forward" in vars(part) for part in parts):
        return "a forward in its head is overridden"
    if any(has_hooks(part) for part in parts):
        return "a layer of its head has hooks"
    upsampling = head[1]
    if type(upsampling) is nn.Identity:
        return None
    usual = (
        original_class(upsampling) in (nn.Upsample, nn.UpsamplingBilinear2d)
        and upsampling.mode == "bilinear"
        and bool(upsampling.align_corners)
        and upsampling.size is None
        and isinstance(upsampling.scale_factor, int | float)
        and float(upsampling.scale_factor).is_integer()
    )
    return None if usual else f"its head upsamples with {upsampling}"


def _activation(head: Any) -> nn.Module:
    """The last layer of a head, without smp's wrapper."""
    last = head[2]
    return last.activation if full_name(original_class(last)) == _ACTIVATION else last


def _no_logits(head: Any) -> str | None:
    """Why a head's output is not the upsampled result of its convolution, or None."""
    if why := _unusual_head(head):
        return why
    activation = _activation(head)
    return None if type(activation) is nn.Identity else f"its head ends with {activation}"


class ResNetEncoder(Swap):
    """The features of a ResNet, finest first."""

    what = "batch norm and ReLU in the convolution, for inference"
    classes = (f"{_SMP}.encoders.resnet.ResNetEncoder",)

    def forward(self, module: Any, x: torch.Tensor) -> list[torch.Tensor]:
        features = [x]
        x = run(x, module.conv1, module.bn1, module.relu)
        features.append(x)
        first = nn.Sequential(module.maxpool, module.layer1)
        stages = (first, module.layer2, module.layer3, module.layer4)
        for stage in stages[: module._depth - 1]:
            x = stage(x)
            features.append(x)
        return features


class UnetBlock(Swap):
    """One level of Unet's decoder; the resized and the concatenated map are never made."""

    what = "convolution of the upper map at its own resolution"
    classes = (f"{_DECODERS}.unet.decoder.UnetDecoderBlock",)

    def forward(
        self,
        module: Any,
        feature_map: torch.Tensor,
        target_height: int,
        target_width: int,
        skip_connection: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return run_unet_block(module, feature_map, (target_height, target_width), skip_connection)

    def skips(self, module: Any) -> Iterable[nn.Module]:
        return unet_skips(module)

    def unfit(self, module: Any) -> str | None:
        return unet_unfit(module)


class PspDecoder(Swap):
    """PSPNet's pyramid and the convolution after it."""

    what = "pooled grids through a small product instead of maps"
    classes = (f"{_DECODERS}.pspnet.decoder.PSPDecoder",)

    def forward(self, module: Any, features: list[torch.Tensor]) -> torch.Tensor:
        branches = [block.pool for block in module.psp.blocks]
        x = run_pooled(features[-1], branches, module.conv, input_first=False, align_corners=True)
        return module.dropout(x)

    def skips(self, module: Any) -> Iterable[nn.Module]:
        blocks = list(module.psp.blocks)
        pools = [block.pool for block in blocks]
        convolution = module.conv, module.conv[0]
        return module.psp, *blocks, *pools, *(pool[0] for pool in pools), *convolution

    def unfit(self, module: Any) -> str | None:
        branches = [block.pool for block in module.psp.blocks]
        return unusual_branches(branches) or begins_with(module.conv)


class DeepLabV3PlusDecoder(Swap):
    """The separable convolution over both maps, neither of them resized or concatenated."""

    what = "separable convolution without the resized and concatenated maps"
    classes = (f"{_DECODERS}.deeplabv3.decoder.DeepLabV3PlusDecoder",)

    def forward(self, module: Any, features: list[torch.Tensor]) -> torch.Tensor:
        low = module.block1(features[2])
        high = module.aspp(features[-1])
        factor = int(module.up.scale_factor)
        if (high.shape[2] * factor, high.shape[3] * factor) != (low.shape[2], low.shape[3]):
            return module.block2(torch.cat([module.up(high), low], 1))
        return run_separable([high, low], module.block2, align_corners=True)

    def skips(self, module: Any) -> Iterable[nn.Module]:
        convolutions = module.block2[0]
        return module.up, module.block2, convolutions, *convolutions

    def unfit(self, module: Any) -> str | None:
        up, (depthwise, pointwise) = module.up, module.block2[0]
        if up.mode != "bilinear" or not up.align_corners or not float(up.scale_factor).is_integer():
            return f"it upsamples with {up}"
        return separable(depthwise, pointwise)


class Aspp(torchvision.Aspp):
    """smp's copy of torchvision's ASPP."""

    classes = (f"{_DECODERS}.deeplabv3.decoder.ASPP",)


class UPerNetPsp(Swap):
    """UPerNet's pyramid and the convolution after it."""

    what = "pooled grids through a small product instead of maps"
    classes = (f"{_DECODERS}.upernet.decoder.PSPModule",)

    def forward(self, module: Any, feature: torch.Tensor) -> torch.Tensor:
        return run_pooled(
            feature, module.blocks, module.out_conv, input_first=True, align_corners=False
        )

    def skips(self, module: Any) -> Iterable[nn.Module]:
        pools = [block[0] for block in module.blocks]
        return *module.blocks, *pools, module.out_conv, module.out_conv[0]

    def unfit(self, module: Any) -> str | None:
        return unusual_branches(module.blocks) or begins_with(module.out_conv)


class UPerNetDecoder(Swap):
    """UPerNet's feature pyramid and the fusion of its levels."""

    what = "fusing convolution at the levels' own resolutions"
    classes = (f"{_DECODERS}.upernet.decoder.UPerNetDecoder",)

    def forward(self, module: Any, features: list[torch.Tensor]) -> torch.Tensor:
        normed = [norm(f) for norm, f in zip(module.feature_norms, features[2:], strict=True)]
        *finer, coarsest = normed
        laterals, convolutions = module.fpn_lateral_blocks, module.fpn_conv_blocks
        outs = top_down(module.psp(coarsest), finer, laterals, convolutions)
        size = (outs[0].shape[2], outs[0].shape[3])
        return run_resized(outs, module.fusion_block, size)

    def skips(self, module: Any) -> Iterable[nn.Module]:
        return module.fusion_block, module.fusion_block[0]

    def unfit(self, module: Any) -> str | None:
        return begins_with(module.fusion_block)


class SegformerDecoder(Swap):
    """SegFormer's head."""

    what = "linear layers folded into one product per level"
    classes = (f"{_DECODERS}.segformer.decoder.SegformerDecoder",)

    def forward(self, module: Any, features: list[torch.Tensor]) -> torch.Tensor:
        levels = features[: -len(module.mlp_stage) - 1 : -1]  # the coarsest first
        size = (features[0].shape[2] // 4, features[0].shape[3] // 4)
        if levels[-1].shape[2:] != size:  # encoders that are not MiT have a finer one
            return original_class(module).forward(module, features)
        linears = [stage.linear for stage in module.mlp_stage]
        return run_mlp(levels, linears, module.fuse_stage)

    def skips(self, module: Any) -> Iterable[nn.Module]:
        linears = [stage.linear for stage in module.mlp_stage]
        return *module.mlp_stage, *linears, module.fuse_stage, module.fuse_stage[0]

    def unfit(self, module: Any) -> str | None:
        linears = [stage.linear for stage in module.mlp_stage]
        return unusual_mlp(linears, module.fuse_stage[0]) or begins_with(module.fuse_stage)


class FpnBlock(Swap):
    """Each convolution but the first reads an upsampled map: it runs at half the resolution."""

    what = "convolutions before their upsampling"
    classes = (f"{_DECODERS}.fpn.decoder.SegmentationBlock",)

    def forward(self, module: Any, x: torch.Tensor) -> torch.Tensor:
        first, *others = module.block
        x = run(x, first.block)
        for block in others:
            size = (2 * x.shape[2], 2 * x.shape[3])
            x = run_resized([x], block.block, size, align_corners=True)
        return upsample_bilinear(x, scale_factor=2.0, align_corners=True) if first.upsample else x

    def skips(self, module: Any) -> Iterable[nn.Module]:
        inner = [block.block for block in module.block]
        return module.block, *module.block, *inner, *(layers[0] for layers in inner)

    def unfit(self, module: Any) -> str | None:
        blocks = list(module.block)
        if len(blocks) > 1 and not all(block.upsample for block in blocks):
            return "its blocks do not all upsample"
        return next((why for block in blocks if (why := begins_with(block.block))), None)


LIBRARY = Library(
    name=_SMP,
    tested="0.6",
    packages=(f"{_SMP}.",),
    swaps=(
        Segmenter(),
        Head(),
        ResNetEncoder(),
        UnetBlock(),
        PspDecoder(),
        DeepLabV3PlusDecoder(),
        Aspp(),
        UPerNetPsp(),
        UPerNetDecoder(),
        SegformerDecoder(),
        FpnBlock(),
    ),
)
