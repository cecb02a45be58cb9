"""Hugging Face transformers: SegFormer and UPerNet."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..nn.altered import has_hooks, original_class
from ..nn.chain import run
from ..nn.mlp_head import mlp_fuse
from ..nn.pyramid import run_pooled, unusual_pools
from ..nn.resized import resizable, run_resized
from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.upsample_cross_entropy import upsample_cross_entropy
from .layout import as_given
from .swap import Swap, named, register
from .switch import low_resolution

_MODELS = "transformers.models"
_SEGFORMER = f"{_MODELS}.segformer.modeling_segformer"
_UPERNET = f"{_MODELS}.upernet.modeling_upernet"


def _segformer(
    self: Any, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
) -> Any:
    """The loss from the low-resolution logits, which are all that this model returns anyway."""
    original = original_class(self).forward
    if labels is None or self.config.num_labels == 1:
        return original(self, pixel_values, labels=labels, **kwargs)
    result = original(self, pixel_values, **kwargs)
    logits = result[0]
    loss = upsample_cross_entropy(
        logits, labels, ignore_index=self.config.semantic_loss_ignore_index
    )
    if isinstance(result, tuple):
        return (loss, *result)
    return type(result)(**{**result, "loss": loss})


def _segformer_head(
    self: Any, encoder_hidden_states: Iterable[torch.Tensor], **kwargs: Any
) -> torch.Tensor:
    levels = list(encoder_hidden_states)[::-1]  # the coarsest first
    if any(level.dim() != 4 for level in levels):  # tokens that were not reshaped
        return original_class(self).forward(self, encoder_hidden_states, **kwargs)
    linears = [mlp.proj for mlp in self.linear_projections][::-1]
    weights, biases = [layer.weight for layer in linears], [layer.bias for layer in linears]
    fuse = self.linear_fuse
    x = mlp_fuse(levels, weights, biases, fuse.weight, fuse.bias)
    x = run(x, self.batch_norm, self.activation, self.dropout)
    return self.classifier(x)


def _segformer_head_skips(self: Any) -> Iterable[nn.Module]:
    mlps = list(self.linear_projections)
    return *mlps, *(mlp.proj for mlp in mlps), self.linear_fuse


def _segformer_head_unfit(self: Any) -> str | None:
    return resizable(self.linear_fuse)


def _upernet(
    self: Any,
    pixel_values: torch.Tensor | None = None,
    output_attentions: bool | None = None,
    output_hidden_states: bool | None = None,
    labels: torch.Tensor | None = None,
    return_dict: bool | None = None,
    **kwargs: Any,
) -> Any:
    """The loss from low-resolution logits; the auxiliary head runs where its logits are used."""
    config = self.config
    if labels is not None and config.num_labels == 1:
        raise ValueError("The number of labels should be greater than one")
    assert pixel_values is not None
    return_dict = config.return_dict if return_dict is None else return_dict
    if output_hidden_states is None:
        output_hidden_states = config.output_hidden_states
    if output_attentions is None:
        output_attentions = config.output_attentions
    outputs = self.backbone.forward_with_filtered_kwargs(
        pixel_values, output_hidden_states=output_hidden_states, output_attentions=output_attentions
    )
    features = outputs.feature_maps
    coarse = self.decode_head(features)
    auxiliary, loss = None, None
    if self.auxiliary_head is not None and (labels is not None or _is_seen(self.auxiliary_head)):
        auxiliary = self.auxiliary_head(features)
    if labels is not None:
        ignored = config.loss_ignore_index
        loss = upsample_cross_entropy(coarse, labels, ignore_index=ignored)
        if auxiliary is not None:
            second = upsample_cross_entropy(auxiliary, labels, ignore_index=ignored)
            loss = loss + config.auxiliary_loss_weight * second
    logits = as_given(coarse, pixel_values)
    if not low_resolution(self):
        logits = upsample_bilinear(logits, (pixel_values.shape[2], pixel_values.shape[3]))
    if not return_dict:
        rest = outputs[1:] if output_hidden_states else outputs[2:]
        return (logits, *rest) if loss is None else (loss, logits, *rest)
    return sys.modules["transformers.modeling_outputs"].SemanticSegmenterOutput(
        loss=loss,
        logits=logits,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )


def _is_seen(head: nn.Module) -> bool:
    """Whether running a head changes anything besides its result: statistics, or what hooks do."""
    return head.training or any(has_hooks(module) for module in head.modules())


def upernet_coarse(self: Any, x: torch.Tensor) -> torch.Tensor:
    """UPerNet's logits before they are upsampled."""
    return self.decode_head(self.backbone.forward_with_filtered_kwargs(x).feature_maps)


def _upernet_head(self: Any, encoder_hidden_states: list[torch.Tensor]) -> torch.Tensor:
    laterals = [
        convolution(level)
        for convolution, level in zip(self.lateral_convs, encoder_hidden_states[:-1], strict=True)
    ]
    laterals.append(_pooled(self, encoder_hidden_states[-1]))
    for i in range(len(laterals) - 1, 0, -1):
        size = (laterals[i - 1].shape[2], laterals[i - 1].shape[3])
        laterals[i - 1] = laterals[i - 1] + upsample_bilinear(laterals[i], size)
    outs = [convolution(x) for convolution, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
    outs.append(laterals[-1])
    size = (outs[0].shape[2], outs[0].shape[3])
    return self.classifier(run_resized(outs, _layers(self.fpn_bottleneck), size))


def _pooled(self: Any, x: torch.Tensor) -> torch.Tensor:
    branches = [block.layers for block in self.psp_modules.blocks]
    layers = _layers(self.bottleneck)
    return run_pooled(x, branches, layers, input_first=True, align_corners=False)


def _layers(module: Any) -> tuple[nn.Module, ...]:
    return module.conv, module.batch_norm, module.activation


def _upernet_head_skips(self: Any) -> Iterable[nn.Module]:
    blocks = list(self.psp_modules.blocks)
    fused = [m for b in (self.bottleneck, self.fpn_bottleneck) for m in (b, b.conv)]
    return self.psp_modules, *blocks, *(b.layers[0] for b in blocks), *fused


def _upernet_head_unfit(self: Any) -> str | None:
    if self.align_corners or self.psp_modules.align_corners:
        return "align_corners is set"
    pools = [block.layers[0] for block in self.psp_modules.blocks]
    convolutions = (self.bottleneck.conv, self.fpn_bottleneck.conv)
    reasons = (unusual_pools(pools), *map(resizable, convolutions))
    return next((reason for reason in reasons if reason), None)


def _conv_module(self: Any, input: torch.Tensor) -> torch.Tensor:
    return run(input, *_layers(self))


register(
    Swap(
        "transformers.segformer",
        "loss from low-resolution logits",
        named(_SEGFORMER, "SegformerForSemanticSegmentation"),
        _segformer,
        ("pixel_values", "labels"),
    ),
    Swap(
        "transformers.segformer_head",
        "linear layers folded into one product per level",
        named(_SEGFORMER, "SegformerDecodeHead"),
        _segformer_head,
        ("encoder_hidden_states",),
        _segformer_head_skips,
        _segformer_head_unfit,
    ),
    Swap(
        "transformers.upernet",
        "loss from low-resolution logits, auxiliary head only for the loss",
        named(_UPERNET, "UperNetForSemanticSegmentation"),
        _upernet,
        (
            "pixel_values",
            "output_attentions",
            "output_hidden_states",
            "labels",
            "return_dict",
        ),
    ),
    Swap(
        "transformers.upernet_head",
        "pooled grids and levels convolved at their own resolutions",
        named(_UPERNET, "UperNetHead"),
        _upernet_head,
        ("encoder_hidden_states",),
        _upernet_head_skips,
        _upernet_head_unfit,
    ),
    Swap(
        "transformers.upernet_conv",
        "batch norm and ReLU in the convolution, for inference",
        named(_UPERNET, "UperNetConvModule"),
        _conv_module,
        ("input",),
    ),
)
