"""The whole model: images and prompts to masks, with the official names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.upsample_bilinear import upsample_bilinear
from .image_encoder import ImageEncoder
from .mask_decoder import MaskDecoder
from .prompt_encoder import PromptEncoder

# Options of the image encoder.
SIZES: dict[str, dict[str, Any]] = {
    "vit_b": {"channels": 768, "depth": 12, "heads": 12, "global_layers": (2, 5, 8, 11)},
    "vit_l": {"channels": 1024, "depth": 24, "heads": 16, "global_layers": (5, 11, 17, 23)},
    "vit_h": {"channels": 1280, "depth": 32, "heads": 16, "global_layers": (7, 15, 23, 31)},
    # No published weights: for tests.
    "tiny": {"channels": 32, "depth": 2, "heads": 2, "global_layers": (1,), "image_size": 128},
}


class SAM(nn.Module):
    """Segment Anything, with the names and results of the official code.

    Args:
        size: "vit_b", "vit_l", "vit_h" or "tiny" (for tests).
        encoder: options of ImageEncoder that replace those of `size`.
        prompts: options of PromptEncoder.
        decoder: options of MaskDecoder.
        mask_threshold: logits above it are a mask.

    Attributes:
        image_encoder, prompt_encoder, mask_decoder: the parts.
        pixel_mean, pixel_std: of RGB values 0..255.

    Raises:
        ValueError: an unknown size.

    Source: Kirillov et al., "Segment Anything" (2023).
    """

    image_format = "RGB"
    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        size: str = "vit_b",
        encoder: dict[str, Any] | None = None,
        prompts: dict[str, Any] | None = None,
        decoder: dict[str, Any] | None = None,
        mask_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size is {size!r}, allowed are {', '.join(map(repr, SIZES))}")
        options = {**SIZES[size], **(encoder or {})}
        self.image_encoder = ImageEncoder(**options)
        image = self.image_encoder.image_size
        side = image // options.get("patch", 16)
        channels = options.get("out_channels", 256)
        self.prompt_encoder = PromptEncoder(
            channels, (side, side), (image, image), **(prompts or {})
        )
        self.mask_decoder = MaskDecoder(**{"channels": channels, **(decoder or {})})
        self.mask_threshold = mask_threshold
        for name, values in (
            ("pixel_mean", (123.675, 116.28, 103.53)),
            ("pixel_std", (58.395, 57.12, 57.375)),
        ):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def preprocess(self, x: torch.Tensor) -> torch.Tensor:
        """RGB 0..255 [..., 3, H, W], sides up to image_size -> normalised, with zeros below and to
        the right up to image_size."""
        x = (x - self.pixel_mean) / self.pixel_std
        side = self.image_encoder.image_size
        h, w = x.shape[-2:]
        if max(h, w) > side:
            raise ValueError(f"x is {h}x{w}, allowed are sides up to {side}")
        return F.pad(x, (0, side - w, 0, side - h))

    def postprocess_masks(
        self,
        masks: torch.Tensor,
        input_size: Sequence[int],
        original_size: Sequence[int],
    ) -> torch.Tensor:
        """Low-resolution logits [P, B, h, w] -> logits [P, B, *original_size].

        Args:
            masks: of the decoder.
            input_size: rows and columns of the resized image, before zeros were added.
            original_size: rows and columns of the image as it was.
        """
        side = self.image_encoder.image_size
        masks = upsample_bilinear(masks, (side, side))
        masks = masks[..., : input_size[0], : input_size[1]]
        return upsample_bilinear(masks, (int(original_size[0]), int(original_size[1])))

    def forward(
        self, batched_input: Sequence[dict[str, Any]], multimask_output: bool
    ) -> list[dict[str, torch.Tensor]]:
        """Masks of the prompts of every image.

        Args:
            batched_input: for each image "image" (RGB 0..255 [3, H, W], longer side image_size),
                "original_size", and prompts of the resized image: "point_coords" [P, K, 2] with
                "point_labels" [P, K], "boxes" [P, 4], "mask_inputs" [P, 1, h, w].
            multimask_output: several masks of each prompt; False: one.

        Returns:
            For each image "masks" [P, B, H, W] (bool, original size), "iou_predictions" [P, B] and
            "low_res_logits" [P, B, h, w].
        """
        images = torch.stack([self.preprocess(x["image"]) for x in batched_input])
        embeddings = self.image_encoder(images)
        places = self.prompt_encoder.get_dense_pe()
        results = []
        for given, embedding in zip(batched_input, embeddings, strict=True):
            points = None
            if "point_coords" in given:
                points = (given["point_coords"], given["point_labels"])
            sparse, dense = self.prompt_encoder(
                points, given.get("boxes"), given.get("mask_inputs")
            )
            low, iou = self.mask_decoder(embedding[None], places, sparse, dense, multimask_output)
            masks = self.postprocess_masks(low, given["image"].shape[-2:], given["original_size"])
            results.append(
                {
                    "masks": masks > self.mask_threshold,
                    "iou_predictions": iou,
                    "low_res_logits": low,
                }
            )
        return results
