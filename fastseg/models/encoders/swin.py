"""Swin Transformers as feature pyramids, with the names of their first code.

The code is ours. Its sources are the paper and what transformers' SwinBackbone (Apache-2.0)
computes. Tokens are a map [N, H, W, C] throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...nn.dot_product import DropPath, attention
from .base import Encoder

_PATCH = 4
# Buffers that files of others hold and that are computed here.
_COMPUTED = ("attn.relative_position_index", "attn_mask")


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for each offset of two positions."""

    relative_position_index: torch.Tensor

    def __init__(
        self, width: int, heads: int, window: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        if width % heads != 0:
            raise ValueError(f"heads has {heads}, expected a divisor of the {width} channels")
        self.heads, self.window, self.attention_dropout = heads, window, attention_dropout
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        with torch.device("cpu"):  # it is in no file
            place = torch.arange(window)
            offset = place[:, None] - place + window - 1
            index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
        self.register_buffer("relative_position_index", index.flatten(), persistent=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Windows of tokens [B, window^2, width] -> the same; mask [B', window^2, window^2].

        B' divides B: the windows of one image. The mask is added to the scores.
        """
        count, length, width = x.shape
        triples = self.qkv(x).view(count, length, 3, self.heads, width // self.heads)
        q, k, v = triples.permute(2, 0, 3, 1, 4).unbind()
        table = self.relative_position_bias_table[self.relative_position_index]
        bias = table.view(1, length, length, self.heads).permute(0, 3, 1, 2)
        if mask is not None:
            bias = (bias + mask[:, None].to(bias.dtype)).repeat(count // mask.shape[0], 1, 1, 1)
        y = attention(q, k, v, bias.to(q.dtype), self.attention_dropout if self.training else 0.0)
        return self.proj_drop(self.proj(y.transpose(1, 2).reshape(count, length, width)))


class MLP(nn.Module):
    """Linear layer, GELU, linear layer."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Attention in windows, perhaps shifted by half of one, and an MLP, each added to its input."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        shift: int,
        hidden: int,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window, dropout, attention_dropout)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H, W, width] -> [N, H, W, width]."""
        x = x + self.drop_path(self._attended(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        count, height, width, channels = x.shape
        size, shift = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        mask = None
        if shift > 0:
            x = x.roll((-shift, -shift), (1, 2))
            mask = _mask(rows * size, columns * size, size, shift, x.device)
        windows = x.view(count, rows, size, columns, size, channels).permute(0, 1, 3, 2, 4, 5)
        y = self.attn(windows.reshape(-1, size * size, channels), mask)
        y = y.view(count, rows, columns, size, size, channels).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(count, rows * size, columns * size, channels)
        if shift > 0:
            y = y.roll((shift, shift), (1, 2))
        return y[:, :height, :width]


def _mask(height: int, width: int, size: int, shift: int, device: torch.device) -> torch.Tensor:
    """What keeps apart the parts of a shifted window that do not touch in the image.

    Returns:
        [windows, size^2, size^2]: 0, or -100 for two positions of different parts.
    """

    def parts(side: int) -> torch.Tensor:
        place = torch.arange(side, device=device)
        return (place >= side - size).int() + (place >= side - shift).int()

    part = parts(height)[:, None] * 3 + parts(width)
    windows = part.view(height // size, size, width // size, size).transpose(1, 2)
    flat = windows.reshape(-1, size * size)
    return (flat[:, :, None] != flat[:, None, :]) * -100.0


class PatchMerging(nn.Module):
    """Four neighbours side by side, a norm, and a linear layer to twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H, W, width] -> [N, ceil(H / 2), ceil(W / 2), 2 * width]."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        count, height, width, channels = x.shape
        x = x.view(count, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.flatten(3)))


class Stage(nn.Module):
    """Blocks, whose windows are shifted in every second one, then the merging of patches."""

    def __init__(self, blocks: list[Block], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, H, W, width] -> the same, and what the next stage reads."""
        x = self.blocks(x)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """A linear layer of patches, and a norm."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, _PATCH, _PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> tokens [N, ceil(H / 4), ceil(W / 4), width]."""
        x = F.pad(x, (0, -x.shape[3] % _PATCH, 0, -x.shape[2] % _PATCH))
        return self.norm(self.proj(x).permute(0, 2, 3, 1).contiguous())


class SwinEncoder(Encoder):
    """A hierarchical transformer with attention in shifted windows, for images of any size.

    There are no features at stride 2: an empty map stands in their place.

    Args:
        width: channels of the first stage; each has twice those of the one before.
        depths: blocks of each stage.
        heads: of attention, in each stage.
        window: positions per side of a window.
        in_channels: as in `Encoder`. output_stride: 32.
        depth: 2 to 5 halvings.
        expansion: hidden channels of an MLP over those of the stage.
        dropout, attention_dropout: probabilities, of single values and of attention weights.
        drop_path_rate: probability with which the last branch is left out; it grows from 0.

    Raises:
        ValueError: an argument out of range.

    Source: Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows,
    2021, section 3.
    """

    classifier_prefix = "head."
    prefixes = tuple(
        prefix for stage in range(4) for prefix in (f"layers.{stage}.", f"norm{stage}.")
    )

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int = 7,
        in_channels: int = 3,
        depth: int = 5,
        output_stride: int = 32,
        expansion: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__(in_channels, depth, output_stride)
        if depth < 2:
            raise ValueError(f"encoder depth is {depth}, allowed are 2 to 5: a Swin begins at 4")
        if output_stride != 32:
            raise ValueError(f"encoder output stride is {output_stride}, a Swin has 32 only")
        for name, values in {"depths": depths, "heads": heads}.items():
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} is {tuple(values)}, expected 4 numbers of at least 1")
        if not 1 <= window <= 64:
            raise ValueError(f"window is {window}, expected 1 to 64")
        total = sum(depths)
        rates = iter([drop_path_rate * i / max(total - 1, 1) for i in range(total)])
        self.patch_embed = PatchEmbed(in_channels, width)
        self.pos_drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList()
        self.out_channels = [in_channels, 0]
        for stage in range(depth - 1):
            channels = width << stage
            blocks = [
                Block(
                    channels,
                    heads[stage],
                    window,
                    window // 2 if index % 2 else 0,
                    int(channels * expansion),
                    dropout,
                    attention_dropout,
                    next(rates),
                )
                for index in range(depths[stage])
            ]
            last = stage == depth - 2
            self.layers.append(Stage(blocks, None if last else PatchMerging(channels)))
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))
            self.out_channels.append(channels)
        self.initialise()

    def initialise(self) -> None:
        """Random weights: linear layers and biases of positions normal with 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)

    def early_layers(self) -> list[nn.Module]:
        """The layer of the patches, with its norm."""
        return [self.patch_embed]

    def unused_keys(self, names: Iterable[str]) -> list[str]:
        """Those of later stages, of the classifier, and of buffers that are computed here."""
        names = list(names)
        unused = super().unused_keys(names)
        merged = f"layers.{self.depth - 2}.downsample."
        more = [n for n in names if n.endswith(_COMPUTED) or n.startswith((merged, "norm."))]
        return list(dict.fromkeys([*unused, *more]))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x and the features at each stride, finest first: depth + 1 maps."""
        half = (-(-x.shape[2] // 2), -(-x.shape[3] // 2))
        features = [x, x.new_empty((x.shape[0], 0, *half))]
        tokens = self.pos_drop(self.to_late(self.patch_embed(self.to_early(x))))
        stages: Iterable[Any] = self.layers
        for stage, layer in enumerate(stages):
            own, tokens = layer(tokens)
            features.append(getattr(self, f"norm{stage}")(own).permute(0, 3, 1, 2))
        return features


# Name -> width, depths, heads. Source: Liu et al., 2021, section 3.3.
SWIN_VARIANTS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "swin_t": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_b": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin_l": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
