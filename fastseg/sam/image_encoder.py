"""The image encoder: a vision transformer with attention in windows, and in a few layers global."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..nn.altered import readable
from ..ops.attention_2d_bias import attention_2d_bias


@readable
class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel.

    Args:
        channels: of the map.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] -> map of the same shape."""
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, (x.shape[1],), self.weight, self.bias, self.eps).permute(
            0, 3, 1, 2
        )


class MLP(nn.Module):
    """Two linear layers with a GELU or ReLU between them."""

    def __init__(self, channels: int, hidden: int, relu: bool = False) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, hidden)
        self.lin2 = nn.Linear(hidden, channels)
        self.act = nn.ReLU() if relu else nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C] -> [..., C]"""
        return self.lin2(self.act(self.lin1(x)))


class Attention(nn.Module):
    """Attention over a map, with a bias for the distance in rows and one for that in columns.

    Args:
        channels: of the map.
        heads: of the attention.
        side: rows and columns of the map that the tables of distances are for; other maps get
            tables interpolated to their size.
    """

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, channels // heads))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H, W, C] -> [N, H, W, C]"""
        n, h, w, channels = x.shape
        joint = self.qkv(x).view(n, h * w, 3, self.heads, channels // self.heads)
        q, k, v = joint.permute(2, 0, 3, 1, 4)
        as_map = q.unflatten(2, (h, w))
        bias_h = torch.einsum("nmyxd,ykd->nmyxk", as_map, _distances(self.rel_pos_h, h))
        bias_w = torch.einsum("nmyxd,xkd->nmyxk", as_map, _distances(self.rel_pos_w, w))
        y = attention_2d_bias(q, k, v, bias_h.flatten(2, 3), bias_w.flatten(2, 3))
        return self.proj(y.transpose(1, 2).reshape(n, h, w, channels))


class Block(nn.Module):
    """A layer of the transformer; `window` is the side of its windows, 0 for the whole map."""

    def __init__(self, channels: int, heads: int, side: int, window: int, expansion: float) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, heads, window or side)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(channels, int(channels * expansion))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, H, W, C] -> [N, H, W, C]"""
        y = self.norm1(x)
        x = x + (self._in_windows(y) if self.window else self.attn(y))
        return x + self.mlp(self.norm2(x))

    def _in_windows(self, x: torch.Tensor) -> torch.Tensor:
        """Attention inside windows; zeros around the map fill the last ones and take part."""
        n, h, w, channels = x.shape
        side = self.window
        below, right = -h % side, -w % side
        padded = F.pad(x, (0, 0, 0, right, 0, below))
        rows, columns = (h + below) // side, (w + right) // side
        windows = padded.view(n, rows, side, columns, side, channels).transpose(2, 3)
        y = self.attn(windows.reshape(-1, side, side, channels))
        y = y.view(n, rows, columns, side, side, channels).transpose(2, 3)
        return y.reshape(n, h + below, w + right, channels)[:, :h, :w]


class PatchEmbedding(nn.Module):
    """Patches of the image, each a pixel of the map."""

    def __init__(self, patch: int, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, H / patch, W / patch, channels]"""
        return self.proj(x).permute(0, 2, 3, 1)


class ImageEncoder(nn.Module):
    """The vision transformer of Segment Anything, and its neck.

    Args:
        image_size: side of the square image, a multiple of `patch`.
        patch: side of a patch.
        in_channels: bands of the image.
        channels: of the transformer.
        depth: number of its layers.
        heads: of each attention.
        global_layers: indices of the layers that attend over the whole map.
        window: side of the windows of the others.
        expansion: of the MLPs.
        out_channels: of the embedding.

    Source: Kirillov et al., "Segment Anything" (2023); Li et al., "Exploring plain vision
    transformer backbones for object detection" (2022).
    """

    def __init__(
        self,
        image_size: int = 1024,
        patch: int = 16,
        in_channels: int = 3,
        channels: int = 768,
        depth: int = 12,
        heads: int = 12,
        global_layers: tuple[int, ...] = (2, 5, 8, 11),
        window: int = 14,
        expansion: float = 4.0,
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        side = image_size // patch
        self.image_size = image_size
        self.patch_embed = PatchEmbedding(patch, in_channels, channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, channels))
        self.blocks = nn.ModuleList(
            Block(channels, heads, side, 0 if i in global_layers else window, expansion)
            for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(channels, out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images [N, C, S, S] -> embeddings [N, out_channels, S / patch, S / patch].

        Raises:
            ValueError: the sides are not image_size.
        """
        if x.dim() != 4 or x.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, expected [N, C, {self.image_size}, "
                f"{self.image_size}]"
            )
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


def _distances(table: torch.Tensor, side: int) -> torch.Tensor:
    """The entry of each pair of places [side, side, D]."""
    if table.shape[0] != 2 * side - 1:
        resized = F.interpolate(table.t()[None], size=2 * side - 1, mode="linear")
        table = resized[0].t()
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None] + side - 1]
