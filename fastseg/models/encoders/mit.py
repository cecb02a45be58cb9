"""Mix Transformers B0 to B5 as feature pyramids, with smp's names.

The code is ours. Its sources are the paper and what transformers' SegformerModel (Apache-2.0)
computes. Tokens are a map [N, H, W, C] throughout, which is what a convolution in channels_last
reads: nothing is transposed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ...nn import DilatedConv2d
from ...nn.dot_product import DropPath, attention
from .base import Encoder

# Of the convolution that each stage begins with. Source: Xie et al., SegFormer, 2021, table 6.
_KERNELS, _STRIDES = (7, 3, 3, 3), (4, 2, 2, 2)


def _as_map(x: torch.Tensor) -> torch.Tensor:
    """[N, H, W, C] as the channels_last map [N, C, H, W]; the same memory."""
    return x.permute(0, 3, 1, 2)


def _as_tokens(x: torch.Tensor) -> torch.Tensor:
    """The map [N, C, H, W] as [N, H, W, C]; the same memory."""
    return x.permute(0, 2, 3, 1)


def _conv(
    convolution: type[nn.Conv2d],
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution; of a dilated stage every one has dilation in the place of its stride."""
    if dilation > 1:
        stride, padding = 1, kernel // 2 * dilation
    return convolution(
        in_channels, channels, kernel, stride, padding, dilation=dilation, groups=groups
    )


class OverlapPatchEmbed(nn.Module):
    """A convolution with a stride, and a norm of its tokens."""

    def __init__(
        self, in_channels: int, width: int, kernel: int, stride: int, dilation: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.proj = _conv(nn.Conv2d, in_channels, width, kernel, stride, kernel // 2, dilation)
        self.norm = nn.LayerNorm(width, norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> tokens [N, ceil(H / stride), ceil(W / stride), width]."""
        return self.norm(_as_tokens(self.proj(x)).contiguous())


class Attention(nn.Module):
    """Self-attention to keys and values of a smaller map."""

    def __init__(
        self,
        width: int,
        heads: int,
        reduction: int,
        dilation: int,
        norm_eps: float,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        if width % heads != 0:
            raise ValueError(f"heads has {heads}, expected a divisor of the {width} channels")
        self.heads, self.reduction, self.attention_dropout = heads, reduction, attention_dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(dropout)
        if reduction > 1:
            self.sr = _conv(nn.Conv2d, width, width, reduction, reduction, 0, dilation)
            self.norm = nn.LayerNorm(width, norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H, W, width] -> [N, H, W, width]."""
        count, height, width, channels = x.shape
        size = channels // self.heads
        q = self.q(x).view(count, height * width, self.heads, size).transpose(1, 2)
        if self.reduction > 1:
            x = self.norm(_as_tokens(self.sr(_as_map(x))).contiguous())
        pairs = self.kv(x).view(count, x.shape[1] * x.shape[2], 2, self.heads, size)
        k, v = pairs.permute(2, 0, 3, 1, 4).unbind()
        y = attention(q, k, v, dropout=self.attention_dropout if self.training else 0.0)
        y = y.transpose(1, 2).reshape(count, height, width, channels)
        return self.proj_drop(self.proj(y))


class DepthwiseConv(nn.Module):
    """A depthwise 3x3 convolution of tokens: what tells them where they are."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dwconv = _conv(DilatedConv2d, width, width, 3, 1, 1, dilation, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H, W, width] -> [N, H, W, width]."""
        return _as_tokens(self.dwconv(_as_map(x)))


class MixFFN(nn.Module):
    """Linear layer, depthwise convolution, GELU, linear layer."""

    def __init__(self, width: int, hidden: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = DepthwiseConv(hidden, dilation)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H, W, width] -> [N, H, W, width]."""
        x = self.drop(self.act(self.dwconv(self.fc1(x))))
        return self.drop(self.fc2(x))


class Block(nn.Module):
    """Attention and MixFFN, each after a norm and added to what it reads."""

    def __init__(
        self,
        width: int,
        heads: int,
        reduction: int,
        hidden: int,
        dilation: int,
        norm_eps: float,
        reduction_norm_eps: float,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.attn = Attention(
            width, heads, reduction, dilation, reduction_norm_eps, dropout, attention_dropout
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.mlp = MixFFN(width, hidden, dilation, dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H, W, width] -> [N, H, W, width]."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MixTransformerEncoder(Encoder):
    """A hierarchical transformer without position embeddings; stages after `depth` do not exist.

    There are no features at stride 2: an empty map stands in their place, as in smp.

    Args:
        depths: blocks of each stage.
        widths: channels of each stage.
        in_channels, output_stride: as in `Encoder`.
        depth: 2 to 5 halvings.
        heads: of attention, in each stage.
        reductions: factor by which the map shrinks before keys and values, in each stage.
        expansions: hidden channels of MixFFN over those of the stage, in each stage.
        norm_eps: epsilon of the norms before attention, before MixFFN and after a stage.
        embedding_norm_eps: epsilon of the norms after convolutions with a stride.
        dropout, attention_dropout: probabilities, of single values and of attention weights.
        drop_path_rate: probability with which the last branch is left out; it grows from 0.

    Raises:
        ValueError: an argument out of range, or lists that are not of four numbers.

    Source: Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with
    Transformers, 2021, section 3.1.
    """

    prefixes = tuple(
        f"{part}{stage}." for stage in (1, 2, 3, 4) for part in ("patch_embed", "block", "norm")
    )
    classifier_prefix = "head."
    patch_embed1: OverlapPatchEmbed

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        in_channels: int = 3,
        depth: int = 5,
        output_stride: int = 32,
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        expansions: Sequence[int] = (4, 4, 4, 4),
        norm_eps: float = 1e-6,
        embedding_norm_eps: float = 1e-5,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__(in_channels, depth, output_stride)
        if depth < 2:
            raise ValueError(f"encoder depth is {depth}, allowed are 2 to 5: a MiT begins at 4")
        for name, values in {
            "depths": depths,
            "widths": widths,
            "heads": heads,
            "reductions": reductions,
            "expansions": expansions,
        }.items():
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} is {tuple(values)}, expected 4 numbers of at least 1")
        total = sum(depths)
        rates = iter([drop_path_rate * i / max(total - 1, 1) for i in range(total)])
        stages, channels = depth - 1, in_channels
        dilations = []
        for i in range(stages):
            dilation = self.stride_and_dilation(i + 2)[1]
            embedding = OverlapPatchEmbed(
                channels, widths[i], _KERNELS[i], _STRIDES[i], dilation, embedding_norm_eps
            )
            self.add_module(f"patch_embed{i + 1}", embedding)
            channels = widths[i]
            dilations.append(dilation)
        for i in range(stages):
            blocks = [
                Block(
                    widths[i],
                    heads[i],
                    reductions[i],
                    widths[i] * expansions[i],
                    dilations[i],
                    norm_eps,
                    embedding_norm_eps,
                    dropout,
                    attention_dropout,
                    next(rates),
                )
                for _ in range(depths[i])
            ]
            self.add_module(f"block{i + 1}", nn.Sequential(*blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(widths[i], norm_eps))
        self.out_channels = [in_channels, 0, *widths[:stages]]
        self.initialise()

    def initialise(self) -> None:
        """Random weights: linear layers normal with 0.02, convolutions by what they write.

        With other than 3 input channels the first convolution has torch's, as in smp.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                if module is self.patch_embed1.proj and self.in_channels != 3:
                    continue
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def early_layers(self) -> list[nn.Module]:
        """The convolution of the image, with its norm."""
        return [self.patch_embed1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x and the features at each stride, finest first: depth + 1 maps."""
        half = (-(-x.shape[2] // 2), -(-x.shape[3] // 2))
        features = [x, x.new_empty((x.shape[0], 0, *half))]
        x = self.to_early(x)
        for stage in range(1, self.depth):
            tokens = getattr(self, f"patch_embed{stage}")(x)
            tokens = getattr(self, f"block{stage}")(self.to_late(tokens))
            x = _as_map(getattr(self, f"norm{stage}")(tokens))
            features.append(x)
        return features
