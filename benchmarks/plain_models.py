"""Our models' parameters run with PyTorch's modules and functions only: what fastseg replaces."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastseg.models import SegmentationModel
from fastseg.nn import DilatedConv2d
from fastseg.nn.chain import Chain

_PLAIN: dict[type, type] = {DilatedConv2d: nn.Conv2d, Chain: nn.Sequential}


def made_plain(module: nn.Module) -> nn.Module:
    """The module, which calls PyTorch's layers one by one from now on."""
    for layer in module.modules():
        if type(layer) in _PLAIN:
            layer.__class__ = _PLAIN[type(layer)]
        layer.register_forward_hook(lambda *_: None)  # it is called itself then, not fused
    return module


def plain_aspp(aspp: Any, x: torch.Tensor) -> torch.Tensor:
    """Branches and resized pooled map, concatenated and projected."""
    *branches, pooling = aspp.convs
    pooled = x
    for layer in pooling:
        pooled = layer(pooled)
    maps = [branch(x) for branch in branches]
    return aspp.project(torch.cat([*maps, _resized(pooled, x.shape[2:], False)], dim=1))


class Plain(nn.Module):
    """Encoder, decoder and heads of a copy of the model, as they would be written without fastseg;
    in training mode logits of the auxiliary head beside those of the first, if there is one."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model: Any = made_plain(copy.deepcopy(model))

    def features(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """What the segmentation head reads, of the encoder's maps."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> Any:
        """Logits of every pixel."""
        maps = self.model.encoder(self.model.pad(x))
        logits = [self.model.segmentation_head(self.features(maps))]
        if self.training and self.model.auxiliary_head is not None:
            logits.append(self.model.auxiliary_head(maps[-2]))
        size = self.model.padded_size(*x.shape[2:])
        full = tuple(
            _resized(y, size, self.model.align_corners)[:, :, : x.shape[2], : x.shape[3]]
            for y in logits
        )
        return full if len(full) > 1 else full[0]


class PlainPSPNet(Plain):
    """PSPNet: the grids resized and concatenated with the map."""

    def features(self, maps: list[torch.Tensor]) -> torch.Tensor:
        decoder, last = self.model.decoder, maps[-1]
        branches = [
            _resized(block.pool(last), last.shape[2:], True) for block in decoder.psp.blocks
        ]
        return decoder.dropout(decoder.conv(torch.cat([last, *branches], dim=1)))


class PlainDeepLabV3Plus(Plain):
    """DeepLabV3+: branches and pooled map concatenated, resized, concatenated again."""

    def features(self, maps: list[torch.Tensor]) -> torch.Tensor:
        decoder, last = self.model.decoder, maps[-1]
        aspp, *refinement = decoder.aspp
        y = plain_aspp(aspp, last)
        for module in refinement:
            y = module(y)
        low = decoder.block1(maps[2])
        y = _resized(y, low.shape[2:], decoder.align_corners)
        return decoder.block2(torch.cat([y, low], dim=1))


def _resized(x: torch.Tensor, size: Any, align_corners: bool) -> torch.Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)
