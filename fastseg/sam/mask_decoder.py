"""The mask decoder: tokens and the image attend to each other; each mask token makes a mask.

The attention between few tokens and many pixels is re-associated: the projections of the image are
folded into the tokens, so no projection of the image is ever computed. Without gradients a few
prompts go at a time: what they need stays in the processor's cache.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..nn import altered
from .image_encoder import MLP, LayerNorm2d

# Measured on 2 cores, ms a prompt: 62, 58, 52 and 77 with 1, 2, 4 and 8 at a time.
_PROMPTS_AT_A_TIME = 4


class TokenAttention(nn.Module):
    """Attention whose inner width may be smaller than that of its input.

    Args:
        channels: of queries, keys and values.
        heads: of the attention.
        shrink: the inner width is channels / shrink.
    """

    def __init__(self, channels: int, heads: int, shrink: int = 1) -> None:
        super().__init__()
        inner = channels // shrink
        self.heads = heads
        self.q_proj = nn.Linear(channels, inner)
        self.k_proj = nn.Linear(channels, inner)
        self.v_proj = nn.Linear(channels, inner)
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """[P, Lq, C], [P, Lk, C] and [P, Lk, C] -> [P, Lq, C]; a P of 1 serves all prompts."""
        count = max(q.shape[0], k.shape[0])
        q, k, v = (
            self._split(projection(x).expand(count, -1, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def of_image(
        self, tokens: torch.Tensor, placed: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """forward(tokens, placed, image) for few tokens and many pixels.

        Keys and values are not projected: the queries of each head go through the keys' projection
        backwards, and the averaged pixels through the values'.
        """
        if self._why_called() is not None:
            return self(tokens, placed, image)
        q = self._split(self.q_proj(tokens)) * (self.q_proj.out_features // self.heads) ** -0.5
        queries = torch.einsum("ptmd,mdc->pmtc", q, self._of_heads(self.k_proj)).flatten(1, 2)
        # The same for all pixels: it changes no weight, but the bias keeps its gradient of 0.
        offset = torch.einsum("ptmd,md->pmt", q, self.k_proj.bias.view(self.heads, -1)).flatten(1)
        weights = (queries @ placed.mT + offset[..., None]).softmax(-1)
        averages = (weights @ image).unflatten(1, (self.heads, -1))
        y = torch.einsum("pmtc,mdc->ptmd", averages, self._of_heads(self.v_proj)).flatten(2)
        return self.out_proj(y + self.v_proj.bias)

    def of_tokens(
        self, placed: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """forward(placed, keys, values) for many pixels and few tokens."""
        if self._why_called() is not None:
            return self(placed, keys, values)
        k = self._split(self.k_proj(keys)) * (self.k_proj.out_features // self.heads) ** -0.5
        v = self._split(self.v_proj(values))
        folded = torch.einsum("ptmd,mdc->pcmt", k, self._of_heads(self.q_proj)).flatten(2)
        offset = torch.einsum("ptmd,md->pmt", k, self.q_proj.bias.view(self.heads, -1)).flatten(1)
        scores = placed @ folded + offset[:, None]
        weights = scores.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)
        outward = self.out_proj.weight.unflatten(1, (self.heads, -1))
        y = torch.einsum("ptmd,cmd->pmtc", v, outward).flatten(1, 2)
        return weights @ y + self.out_proj.bias

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def _of_heads(self, projection: nn.Linear) -> torch.Tensor:
        """The weight [M, D, C]."""
        return projection.weight.unflatten(0, (self.heads, -1))

    def _why_called(self) -> str | None:
        return altered.why_not_short(self, _skipped, _unfit)


def _skipped(attention: TokenAttention) -> list[nn.Module]:
    return [
        attention,
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.out_proj,
    ]


def _unfit(attention: TokenAttention) -> str | None:
    layers = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    return "a projection has no bias" if any(layer.bias is None for layer in layers) else None


class TwoWayBlock(nn.Module):
    """Tokens attend to each other and to the image, then the image to the tokens."""

    def __init__(self, channels: int, heads: int, hidden: int, eps: float, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = TokenAttention(channels, heads)
        self.norm1 = nn.LayerNorm(channels, eps)
        self.cross_attn_token_to_image = TokenAttention(channels, heads, shrink=2)
        self.norm2 = nn.LayerNorm(channels, eps)
        self.mlp = MLP(channels, hidden, relu=True)
        self.norm3 = nn.LayerNorm(channels, eps)
        self.norm4 = nn.LayerNorm(channels, eps)
        self.cross_attn_image_to_token = TokenAttention(channels, heads, shrink=2)

    def forward(
        self, tokens: torch.Tensor, image: torch.Tensor, token_pe: torch.Tensor, pe: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [P, T, C] and the image [P or 1, L, C], and their places -> both anew."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + token_pe
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        seen = image + pe
        tokens = tokens + self.cross_attn_token_to_image.of_image(tokens + token_pe, seen, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token.of_tokens(seen, tokens + token_pe, tokens)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """The layers of the decoder, and a last look of the tokens at the image."""

    def __init__(self, depth: int, channels: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(channels, heads, hidden, eps, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = TokenAttention(channels, heads, shrink=2)
        self.norm_final_attn = nn.LayerNorm(channels)

    def forward(
        self, image: torch.Tensor, pe: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps [P or 1, C, h, w] and [1, C, h, w], tokens [P, T, C] -> tokens, and the image
        [P, h w, C]."""
        image, pe = (x.flatten(2).mT.contiguous() for x in (image, pe))
        given = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, given, pe)
        last = self.final_attn_token_to_image.of_image(tokens + given, image + pe, image)
        return self.norm_final_attn(tokens + last), image


class TokenMLP(nn.Module):
    """Linear layers with ReLUs between them."""

    def __init__(self, channels: int, hidden: int, out_channels: int, depth: int) -> None:
        super().__init__()
        widths = [channels, *[hidden] * (depth - 1), out_channels]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., channels] -> [..., out_channels]"""
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else F.relu(x))
        return x


class MaskDecoder(nn.Module):
    """Masks and their expected IoU from the embeddings of image and prompts.

    Args:
        channels: of the embeddings.
        depth, heads, hidden: of the two-way transformer.
        masks: of each prompt where several are asked for.
        iou_depth, iou_hidden: of the head that predicts the IoU.
        norm_eps: of the transformer's layer norms: 1e-5 in the official code, 1e-6 in transformers.

    Source: Kirillov et al., "Segment Anything" (2023).
    """

    def __init__(
        self,
        channels: int = 256,
        depth: int = 2,
        heads: int = 8,
        hidden: int = 2048,
        masks: int = 3,
        iou_depth: int = 3,
        iou_hidden: int = 256,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(depth, channels, heads, hidden, norm_eps)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(masks + 1, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, 2),
            LayerNorm2d(channels // 4),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            TokenMLP(channels, channels, channels // 8, 3) for _ in range(masks + 1)
        )
        self.iou_prediction_head = TokenMLP(channels, iou_hidden, masks + 1, iou_depth)

    def forward(
        self,
        image_embeddings: torch.Tensor,
        image_pe: torch.Tensor,
        sparse_prompt_embeddings: torch.Tensor,
        dense_prompt_embeddings: torch.Tensor,
        multimask_output: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of P prompts of one image.

        Args:
            image_embeddings: [1, C, h, w].
            image_pe: the places of its pixels [1, C, h, w].
            sparse_prompt_embeddings: of points and boxes [P, K, C].
            dense_prompt_embeddings: of masks [P, C, h, w], or one that all prompts share, expanded.
            multimask_output: several masks of each prompt; False: one.

        Returns:
            Logits [P, B, 4 h, 4 w], and the expected IoU [P, B].
        """
        count = sparse_prompt_embeddings.shape[0]
        dense = dense_prompt_embeddings
        if count > 1 and dense.stride(0) == 0:
            dense = dense[:1]
        if torch.is_grad_enabled() or count <= _PROMPTS_AT_A_TIME:
            masks, iou = self._predict(image_embeddings + dense, image_pe, sparse_prompt_embeddings)
        else:
            shared = image_embeddings + dense
            each = [
                self._predict(
                    shared[i : i + _PROMPTS_AT_A_TIME] if shared.shape[0] > 1 else shared,
                    image_pe,
                    sparse_prompt_embeddings[i : i + _PROMPTS_AT_A_TIME],
                )
                for i in range(0, count, _PROMPTS_AT_A_TIME)
            ]
            masks, iou = (torch.cat(parts) for parts in zip(*each, strict=True))
        kept = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, kept], iou[:, kept]

    def _predict(
        self, image: torch.Tensor, pe: torch.Tensor, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All masks [P, B, 4 h, 4 w] and IoUs [P, B]."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompts.shape[0], -1, -1), prompts], 1)
        tokens, seen = self.transformer(image, pe, tokens)
        filters = torch.stack(
            [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], 1
        )
        return self._masks(seen, filters, image.shape[2:]), self.iou_prediction_head(tokens[:, 0])

    def _masks(self, seen: torch.Tensor, filters: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """[P, B, 4 h, 4 w] from the image [P, h w, C] and the filters [P, B, C / 8].

        A transposed convolution whose stride is its kernel is a linear layer from a pixel to its
        2x2 pixels. They stay side by side, channels last, until only the masks are left to sort.
        """
        upscaling = self.output_upscaling
        if altered.why_not_short(self, _upscaling, _unlike_linear) is not None:
            upscaled = upscaling(seen.mT.unflatten(2, size))
            return (filters @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        layers: list[Any] = list(upscaling)
        first, norm, _, second, _ = layers
        count, (h, w) = seen.shape[0], size
        x = F.layer_norm(
            _unfolded(first, seen), norm.weight.shape, norm.weight, norm.bias, norm.eps
        )
        x = F.gelu(_unfolded(second, F.gelu(x))).view(count, 16 * h * w, filters.shape[2])
        masks = x @ filters.mT  # [P, h w 2 2 2 2, B]
        masks = masks.view(count, h, w, 2, 2, 2, 2, filters.shape[1]).permute(
            0, 7, 1, 3, 5, 2, 4, 6
        )
        return masks.reshape(count, filters.shape[1], 4 * h, 4 * w)


def _unfolded(layer: nn.ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
    """Pixels [..., C] -> their 2x2 pixels [..., 2, 2, C_out]."""
    weight = layer.weight.permute(2, 3, 1, 0)  # [2, 2, C_out, C]
    y = F.linear(x, weight.flatten(0, 2)).unflatten(-1, weight.shape[:3])
    return y if layer.bias is None else y + layer.bias


def _upscaling(decoder: MaskDecoder) -> list[nn.Module]:
    return [decoder.output_upscaling, *decoder.output_upscaling]


def _unlike_linear(decoder: MaskDecoder) -> str | None:
    first, norm, act, second, last = decoder.output_upscaling
    for layer in (first, second):
        shape = layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.groups
        if shape != ((2, 2), (2, 2), (0, 0), (0, 0), 1):
            return "a transposed convolution overlaps"
    if type(norm) is not LayerNorm2d or any(a.approximate != "none" for a in (act, last)):
        return "another norm or activation"
    return None
