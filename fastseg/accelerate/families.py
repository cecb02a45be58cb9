"""What is known of whole models: their logits, the size of their output, and their loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from . import smp, torchvision, transformers
from .loss import Loss
from .swap import named


def _input_size(model: Any, x: torch.Tensor, logits: torch.Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def _itself(model: Any) -> nn.Module:
    return model


def _never(model: Any) -> str | None:
    return None


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one library that are called and trained alike.

    Attributes:
        matches: whether a module is such a model.
        coarse: coarse(model, x): logits at the network's own resolution.
        loss: the loss that fits the model.
        size: size(model, x, logits): height and width of the model's output.
        switch: the submodule whose forward can leave the logits at low resolution; None where they
            are there anyway.
        no_logits: why the output cannot be the logits, or None.
        no_labels: why the argmax of the logits need not be that of the output, or None.
    """

    matches: Callable[[nn.Module], bool]
    coarse: Callable[[Any, torch.Tensor], torch.Tensor]
    loss: Callable[[Any], Loss]
    size: Callable[[Any, torch.Tensor, torch.Tensor], tuple[int, int]] = _input_size
    switch: Callable[[Any], nn.Module | None] = _itself
    no_logits: Callable[[Any], str | None] = _never
    no_labels: Callable[[Any], str | None] = _never


def _torchvision_coarse(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.classifier(model.backbone(torchvision.for_inference(x))["out"])


def _smp_size(model: Any, x: torch.Tensor, logits: torch.Tensor) -> tuple[int, int]:
    upsampling = model.segmentation_head[1]
    scale = 1 if isinstance(upsampling, nn.Identity) else int(upsampling.scale_factor)
    return logits.shape[2] * scale, logits.shape[3] * scale


def _smp_no_logits(model: Any) -> str | None:
    activation = model.segmentation_head[2].activation
    if not isinstance(activation, nn.Identity):
        return f"its head ends with {activation}"
    return _smp_upsampling(model)


def _smp_no_labels(model: Any) -> str | None:
    activation = model.segmentation_head[2].activation
    over_classes = isinstance(activation, nn.Softmax | nn.LogSoftmax) and activation.dim == 1
    if not over_classes and not isinstance(activation, nn.Identity | nn.Sigmoid | nn.Tanh):
        return f"its head ends with {activation}"
    return _smp_upsampling(model)


def _smp_upsampling(model: Any) -> str | None:
    """Why smp's head does not upsample as it usually does, or None."""
    upsampling = model.segmentation_head[1]
    usual = isinstance(upsampling, nn.Identity) or (
        isinstance(upsampling, nn.Upsample)
        and upsampling.mode == "bilinear"
        and bool(upsampling.align_corners)
        and upsampling.size is None
        and isinstance(upsampling.scale_factor, int | float)
        and float(upsampling.scale_factor).is_integer()
    )
    return None if usual else f"its head upsamples with {upsampling}"


_SEGFORMER = "transformers.models.segformer.modeling_segformer"
_UPERNET = "transformers.models.upernet.modeling_upernet"

FAMILIES = (
    Family(
        torchvision.is_model,
        _torchvision_coarse,
        lambda m: Loss(),
    ),
    Family(
        named("torchvision.models.segmentation.lraspp", "LRASPP"),
        lambda m, x: m.classifier(m.backbone(torchvision.for_inference(x))),
        lambda m: Loss(),
    ),
    Family(
        smp.is_model,
        smp.coarse,
        lambda m: Loss(align_corners=True),
        _smp_size,
        lambda m: m.segmentation_head,
        _smp_no_logits,
        _smp_no_labels,
    ),
    Family(
        named(_SEGFORMER, "SegformerForSemanticSegmentation"),
        lambda m, x: m(x).logits,
        lambda m: Loss(ignore_index=m.config.semantic_loss_ignore_index),
        switch=lambda m: None,
    ),
    Family(
        named(_UPERNET, "UperNetForSemanticSegmentation"),
        transformers.upernet_coarse,
        lambda m: Loss(ignore_index=m.config.loss_ignore_index),
    ),
)


def family_of(model: nn.Module) -> Family | None:
    """The family of a model, or None."""
    return next((family for family in FAMILIES if family.matches(model)), None)
