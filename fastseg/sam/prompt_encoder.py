"""The prompt encoder: points, boxes and masks as embeddings."""

from __future__ import annotations

import math

import torch
from torch import nn

from .image_encoder import LayerNorm2d


class PositionEncoding(nn.Module):
    """Random Fourier features of places in the image."""

    positional_encoding_gaussian_matrix: torch.Tensor

    def __init__(self, features: int, scale: float = 1.0) -> None:
        super().__init__()
        matrix = scale * torch.randn(2, features)
        self.register_buffer("positional_encoding_gaussian_matrix", matrix)

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        """Places (x, y) [..., 2] as shares of the image's sides -> [..., 2 * features]."""
        matrix = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * places - 1).to(matrix.dtype) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], -1)


class PromptEncoder(nn.Module):
    """Embeddings of points, boxes and low-resolution masks.

    Args:
        channels: of the embeddings.
        map_size: rows and columns of the image's embedding.
        image_size: rows and columns of the image that the encoder takes.
        mask_channels: inside the layers that embed a mask.

    Source: Kirillov et al., "Segment Anything" (2023).
    """

    def __init__(
        self,
        channels: int,
        map_size: tuple[int, int],
        image_size: tuple[int, int],
        mask_channels: int = 16,
    ) -> None:
        super().__init__()
        self.map_size, self.image_size = map_size, image_size
        self.pe_layer = PositionEncoding(channels // 2)
        # Background and foreground points, and two corners of a box.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, 2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, 2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, channels, 1),
        )
        self.no_mask_embed = nn.Embedding(1, channels)

    def get_dense_pe(self) -> torch.Tensor:
        """The encoding of every pixel of the image's embedding [1, C, h, w]."""
        h, w = self.map_size
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        rows, columns = (
            (torch.arange(side, device=matrix.device, dtype=matrix.dtype) + 0.5) / side
            for side in (h, w)
        )
        grid = torch.meshgrid(rows, columns, indexing="ij")
        return self.pe_layer(torch.stack(grid[::-1], -1)).permute(2, 0, 1)[None]

    def forward(
        self,
        points: tuple[torch.Tensor, torch.Tensor] | None,
        boxes: torch.Tensor | None,
        masks: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeds P prompts.

        Args:
            points: coordinates (x, y) [P, K, 2] in pixels of the encoder's image, and labels
                [P, K]: 1 for foreground, 0 for background, -1 for no point, -10 for one whose
                embedding is 0.
            boxes: corners (x0, y0, x1, y1) [P, 4] in the same pixels.
            masks: low-resolution logits [P, 1, 4 h, 4 w].

        Returns:
            Embeddings of points and boxes [P, K, C], and of the masks [P, C, h, w]; without masks
            the latter is one embedding, expanded.

        Raises:
            ValueError: prompts of different number.
        """
        counts = {
            name: x.shape[0]
            for name, x in (("points", points and points[0]), ("boxes", boxes), ("masks", masks))
            if x is not None
        }
        if len(set(counts.values())) > 1:
            raise ValueError(f"prompts differ in number: {counts}")
        count = next(iter(counts.values()), 1)
        like = self.no_mask_embed.weight
        parts = [like.new_empty(count, 0, like.shape[1])]
        if points is not None:
            parts.append(self._points(*points, pad=boxes is None))
        if boxes is not None:
            parts.append(self._corners(boxes))
        if masks is not None:
            dense = self.mask_downscaling(masks.to(like.dtype))
        else:
            dense = like.view(1, -1, 1, 1).expand(count, -1, *self.map_size)
        return torch.cat(parts, 1), dense

    def _encoded(self, places: torch.Tensor) -> torch.Tensor:
        """Of the middles of pixels (x, y), or of a padded (0, 0)."""
        height, width = self.image_size
        return self.pe_layer(places / places.new_tensor([width, height]))

    def _points(self, places: torch.Tensor, labels: torch.Tensor, pad: bool) -> torch.Tensor:
        places = places.to(self.no_mask_embed.weight.dtype) + 0.5
        if pad:  # without a box, one point that is none stands in its place
            places = torch.cat([places, places.new_zeros(places.shape[0], 1, 2)], 1)
            labels = torch.cat([labels, labels.new_full((labels.shape[0], 1), -1)], 1)
        of_label = labels[..., None]
        encoded = self._encoded(places)
        encoded = torch.where(of_label == -1, self.not_a_point_embed.weight[0], encoded)
        encoded = torch.where(of_label == -10, torch.zeros_like(encoded), encoded)
        for label in (0, 1):
            encoded = torch.where(of_label == label, encoded + self._of(label), encoded)
        return encoded

    def _corners(self, boxes: torch.Tensor) -> torch.Tensor:
        boxes = boxes.to(self.no_mask_embed.weight.dtype) + 0.5
        return self._encoded(boxes.view(-1, 2, 2)) + torch.cat([self._of(2), self._of(3)])

    def _of(self, label: int) -> torch.Tensor:
        """The embedding [1, C] of a kind of point."""
        weight: torch.Tensor = self.point_embeddings[label].weight  # type: ignore[assignment]
        return weight
