"""Hugging Face transformers: SegFormer, UPerNet, and the attention of Mask2Former."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..nn.altered import has_hooks, original_class
from ..nn.chain import run
from ..nn.mlp_head import run_mlp, unusual_mlp
from ..nn.pyramid import run_pooled, unusual_branches
from ..nn.resized import resizable, run_resized
from ..nn.upernet import top_down
from ..ops.deformable_attention import deformable_attention
from ..ops.upsample_bilinear import upsample_bilinear
from .layout import as_given
from .library import Library
from .loss import Loss, cross_entropy_as_torch
from .model import Model
from .queries import Queries
from .swap import Swap
from .switch import low_resolution

_MODELS = "transformers.models"
_SEGFORMER = f"{_MODELS}.segformer.modeling_segformer"
_UPERNET = f"{_MODELS}.upernet.modeling_upernet"
_MASKFORMER = f"{_MODELS}.maskformer.modeling_maskformer"
_MASK2FORMER = f"{_MODELS}.mask2former.modeling_mask2former"


class Segformer(Model):
    """The loss from the low-resolution logits, which are all that this model returns anyway."""

    what = "loss from low-resolution logits"
    classes = (f"{_SEGFORMER}.SegformerForSemanticSegmentation",)

    def forward(
        self,
        module: Any,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        original = original_class(module).forward
        if labels is None or module.config.num_labels <= 1:
            return original(module, pixel_values, labels=labels, **kwargs)
        result = original(module, pixel_values, **kwargs)
        # The original resizes the logits to the labels, of any size.
        size = (labels.shape[-2], labels.shape[-1])
        ignore_index = module.config.semantic_loss_ignore_index
        loss = cross_entropy_as_torch(result[0], labels, size, ignore_index)
        if isinstance(result, tuple):
            return (loss, *result)
        return type(result)(**{**result, "loss": loss})

    def coarse(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        return model(x).logits

    def loss(self, model: Any) -> Loss:
        return Loss(ignore_index=model.config.semantic_loss_ignore_index)

    def switch(self, model: Any) -> nn.Module | None:
        return None


class SegformerHead(Swap):
    """SegFormer's linear layers and their fusion."""

    what = "linear layers folded into one product per level"
    classes = (f"{_SEGFORMER}.SegformerDecodeHead",)

    def forward(
        self, module: Any, encoder_hidden_states: Iterable[torch.Tensor], **kwargs: Any
    ) -> torch.Tensor:
        levels = list(encoder_hidden_states)[::-1]  # the coarsest first
        if any(level.dim() != 4 for level in levels):  # tokens that were not reshaped
            return original_class(module).forward(module, encoder_hidden_states, **kwargs)
        linears = [mlp.proj for mlp in module.linear_projections][::-1]
        layers = (module.linear_fuse, module.batch_norm, module.activation, module.dropout)
        return module.classifier(run_mlp(levels, linears, layers))

    def skips(self, module: Any) -> Iterable[nn.Module]:
        mlps = list(module.linear_projections)
        return *mlps, *(mlp.proj for mlp in mlps), module.linear_fuse

    def unfit(self, module: Any) -> str | None:
        linears = [mlp.proj for mlp in module.linear_projections]
        return unusual_mlp(linears, module.linear_fuse)


class UperNet(Model):
    """The loss from low-resolution logits; the auxiliary head runs where its logits are used."""

    what = "loss from low-resolution logits, auxiliary head only for the loss"
    classes = (f"{_UPERNET}.UperNetForSemanticSegmentation",)

    def forward(
        self,
        module: Any,
        pixel_values: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        config = module.config
        if labels is not None and config.num_labels == 1:
            raise ValueError("The number of labels should be greater than one")
        return_dict = config.return_dict if return_dict is None else return_dict
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if output_attentions is None:
            output_attentions = config.output_attentions
        outputs = module.backbone.forward_with_filtered_kwargs(
            pixel_values,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        assert pixel_values is not None  # the backbone raises
        size = (pixel_values.shape[2], pixel_values.shape[3])
        features = outputs.feature_maps
        coarse = module.decode_head(features)
        head = module.auxiliary_head
        auxiliary, loss = None, None
        if head is not None and (labels is not None or _is_seen(head)):
            auxiliary = head(features)
        if labels is not None:
            ignore_index = config.loss_ignore_index
            loss = cross_entropy_as_torch(coarse, labels, size, ignore_index)
            if auxiliary is not None:
                second = cross_entropy_as_torch(auxiliary, labels, size, ignore_index)
                loss = loss + config.auxiliary_loss_weight * second
        logits = as_given(coarse, pixel_values)
        if not low_resolution(module):
            logits = upsample_bilinear(logits, size)
        if not return_dict:
            rest = outputs[1:] if output_hidden_states else outputs[2:]
            return (logits, *rest) if loss is None else (loss, logits, *rest)
        return sys.modules["transformers.modeling_outputs"].SemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def coarse(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.decode_head(model.backbone.forward_with_filtered_kwargs(x).feature_maps)

    def loss(self, model: Any) -> Loss:
        return Loss(ignore_index=model.config.loss_ignore_index)


def _is_seen(head: nn.Module) -> bool:
    """Whether running a head changes anything besides its result: statistics, or what hooks do."""
    return head.training or any(has_hooks(module) for module in head.modules())


class UperNetHead(Swap):
    """UPerNet's pyramids and their fusions."""

    what = "pooled grids and levels convolved at their own resolutions"
    classes = (f"{_UPERNET}.UperNetHead",)

    def forward(self, module: Any, encoder_hidden_states: list[torch.Tensor]) -> torch.Tensor:
        *finer, coarsest = encoder_hidden_states
        branches = [block.layers for block in module.psp_modules.blocks]
        bottleneck = _layers(module.bottleneck)
        top = run_pooled(coarsest, branches, bottleneck, input_first=True, align_corners=False)
        laterals = [_plus_coarser(conv) for conv in module.lateral_convs]
        outs = top_down(top, finer, laterals[::-1], list(module.fpn_convs)[::-1])
        size = (outs[0].shape[2], outs[0].shape[3])
        return module.classifier(run_resized(outs, _layers(module.fpn_bottleneck), size))

    def skips(self, module: Any) -> Iterable[nn.Module]:
        blocks = list(module.psp_modules.blocks)
        fused = [m for b in (module.bottleneck, module.fpn_bottleneck) for m in (b, b.conv)]
        return module.psp_modules, *blocks, *(b.layers[0] for b in blocks), *fused

    def unfit(self, module: Any) -> str | None:
        if module.align_corners or module.psp_modules.align_corners:
            return "align_corners is set"
        branches = [block.layers for block in module.psp_modules.blocks]
        convolutions = (module.bottleneck.conv, module.fpn_bottleneck.conv)
        reasons = (unusual_branches(branches), *map(resizable, convolutions))
        return next((reason for reason in reasons if reason), None)


def _plus_coarser(
    convolution: nn.Module,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The convolution of a level's features, plus the coarser level's map at their size."""

    def lateral(coarser: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y = convolution(x)
        return y + upsample_bilinear(coarser, (y.shape[2], y.shape[3]))

    return lateral


class UperNetConv(Swap):
    """UPerNet's convolution, norm and activation."""

    what = "batch norm and ReLU in the convolution, for inference"
    classes = (f"{_UPERNET}.UperNetConvModule",)

    def forward(self, module: Any, input: torch.Tensor) -> torch.Tensor:
        return run(input, *_layers(module))


def _layers(module: Any) -> tuple[nn.Module, ...]:
    return module.conv, module.batch_norm, module.activation


class DeformableAttention(Swap):
    """The attention of Mask2Former's pixel decoder."""

    what = "values summed where they are sampled, without the samples in memory"
    classes = (f"{_MASK2FORMER}.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention",)

    def forward(
        self,
        module: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        position_embeddings: torch.Tensor | None = None,
        reference_points: Any = None,
        spatial_shapes_list: Any = None,
        level_start_index: Any = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if reference_points.shape[-1] != 2:  # boxes, which no model of this library gives it
            return original_class(module).forward(
                module,
                hidden_states,
                attention_mask,
                encoder_hidden_states,
                encoder_attention_mask,
                position_embeddings,
                reference_points,
                spatial_shapes_list,
                level_start_index,
                output_attentions,
            )
        queries = hidden_states
        if position_embeddings is not None:
            queries = module.with_pos_embed(queries, position_embeddings)
        heads, levels, points = module.n_heads, module.n_levels, module.n_points
        value = module.value_proj(encoder_hidden_states)
        if attention_mask is not None:
            value = value.masked_fill(attention_mask[..., None], 0.0)
        value = value.unflatten(2, (heads, -1))
        offsets = module.sampling_offsets(queries).unflatten(2, (heads, levels, points, 2))
        weights = module.attention_weights(queries).unflatten(2, (heads, levels * points))
        weights = weights.softmax(3).unflatten(3, (levels, points))
        sides = torch.tensor(
            [[width, height] for height, width in spatial_shapes_list],
            dtype=torch.long,
            device=offsets.device,
        )
        centres = reference_points[:, :, None, :, None]
        locations = centres + offsets / sides[:, None]
        summed = deformable_attention(value, spatial_shapes_list, locations, weights)
        return module.output_proj(summed), weights


LIBRARY = Library(
    name="transformers",
    tested="5.24",
    packages=tuple(f"{_MODELS}.{model}." for model in ("segformer", "upernet", "mask2former")),
    swaps=(
        *(Segformer(), SegformerHead()),
        *(UperNet(), UperNetHead(), UperNetConv()),
        DeformableAttention(),
    ),
    queries=(
        Queries(
            classes=(f"{_MASKFORMER}.MaskFormerForInstanceSegmentation",),
            masks="masks_queries_logits",
            logits="class_queries_logits",
            size=None,
        ),
        Queries(
            classes=(f"{_MASK2FORMER}.Mask2FormerForUniversalSegmentation",),
            masks="masks_queries_logits",
            logits="class_queries_logits",
            size=384,
        ),
    ),
)
