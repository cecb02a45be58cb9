"""Prompts for one image after another, with the official names and arguments."""

from __future__ import annotations

import numpy
import torch

from .model import SAM


class SamPredictor:
    """Keeps the embedding of an image, and predicts masks of prompts for it.

    A program written for the official SamPredictor changes its import alone.

    Args:
        sam_model: the model; it is used without gradients.
    """

    def __init__(self, sam_model: SAM) -> None:
        self.model = sam_model
        self.reset_image()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def reset_image(self) -> None:
        """Forgets the image."""
        self.is_image_set = False
        self.features: torch.Tensor | None = None
        self.original_size: tuple[int, int] | None = None
        self.input_size: tuple[int, int] | None = None

    def set_image(self, image: numpy.ndarray, image_format: str = "RGB") -> None:
        """Encodes an image.

        Args:
            image: uint8 [H, W, 3].
            image_format: order of its channels, "RGB" or "BGR".

        Raises:
            ValueError: another order, shape or dtype.
            ImportError: Pillow, which resizes the image, is not installed.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format is {image_format!r}, allowed are 'RGB' and 'BGR'")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != numpy.uint8:
            raise ValueError(
                f"image has shape {image.shape} and dtype {image.dtype}, expected uint8 [H, W, 3]"
            )
        if image_format != self.model.image_format:
            image = image[..., ::-1]
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("set_image needs Pillow: pip install pillow") from error
        h, w = self._resized(image.shape[0], image.shape[1])
        small = Image.fromarray(numpy.ascontiguousarray(image)).resize(
            (w, h), Image.Resampling.BILINEAR
        )
        x = torch.from_numpy(numpy.array(small)).permute(2, 0, 1)[None]
        self.set_torch_image(x.to(self.device), (image.shape[0], image.shape[1]))

    @torch.no_grad()
    def set_torch_image(
        self, transformed_image: torch.Tensor, original_image_size: tuple[int, int]
    ) -> None:
        """Encodes an image whose longer side is already the encoder's.

        Args:
            transformed_image: values 0..255 [1, 3, H, W].
            original_image_size: rows and columns that the masks shall have.

        Raises:
            ValueError: another shape.
        """
        side = self.model.image_encoder.image_size
        shape = tuple(transformed_image.shape)
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise ValueError(
                f"transformed_image has shape {shape}, expected [1, 3, H, W], longer side {side}"
            )
        self.reset_image()
        self.original_size = original_image_size
        self.input_size = shape[2], shape[3]
        self.features = self.model.image_encoder(self.model.preprocess(transformed_image))
        self.is_image_set = True

    def predict(
        self,
        point_coords: numpy.ndarray | None = None,
        point_labels: numpy.ndarray | None = None,
        box: numpy.ndarray | None = None,
        mask_input: numpy.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """Masks of one prompt.

        Args:
            point_coords: (x, y) [K, 2] in pixels of the image as it was.
            point_labels: [K], 1 for foreground and 0 for background.
            box: (x0, y0, x1, y1) in the same pixels.
            mask_input: low-resolution logits [1, h, w] of an earlier prediction.
            multimask_output: three masks; False: one.
            return_logits: logits instead of masks.

        Returns:
            Masks [B, H, W] (bool), expected IoUs [B], and low-resolution logits [B, h, w].

        Raises:
            RuntimeError: no image was set.
            ValueError: points without labels.
        """

        def tensor(x: numpy.ndarray | None, dtype: torch.dtype) -> torch.Tensor | None:
            return None if x is None else torch.as_tensor(x, dtype=dtype, device=self.device)[None]

        places = tensor(point_coords, torch.float64)
        corners = tensor(box, torch.float64)
        masks, iou, low = self.predict_torch(
            None if places is None else self._scaled(places),
            tensor(point_labels, torch.int64),
            None if corners is None else self._scaled(corners.view(-1, 2, 2)).view(-1, 4),
            tensor(mask_input, torch.float32),
            multimask_output,
            return_logits,
        )
        return _as_array(masks), _as_array(iou), _as_array(low)

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: torch.Tensor | None,
        point_labels: torch.Tensor | None,
        boxes: torch.Tensor | None = None,
        mask_input: torch.Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Masks of P prompts in pixels of the resized image.

        Args:
            point_coords, point_labels: [P, K, 2] and [P, K].
            boxes: [P, 4].
            mask_input: [P, 1, h, w].
            multimask_output, return_logits: as in `predict`.

        Returns:
            Masks [P, B, H, W], expected IoUs [P, B] and low-resolution logits [P, B, h, w].

        Raises:
            RuntimeError: no image was set.
            ValueError: points without labels.
        """
        embedding = self.get_image_embedding()
        assert self.input_size is not None and self.original_size is not None
        points = None
        if point_coords is not None and point_labels is not None:
            points = point_coords, point_labels
        elif point_coords is not None or point_labels is not None:
            raise ValueError("point_coords and point_labels belong together, one of them is None")
        sparse, dense = self.model.prompt_encoder(points, boxes, mask_input)
        low, iou = self.model.mask_decoder(
            embedding, self.model.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output
        )
        masks = self.model.postprocess_masks(low, self.input_size, self.original_size)
        return (masks if return_logits else masks > self.model.mask_threshold), iou, low

    def get_image_embedding(self) -> torch.Tensor:
        """The embedding [1, C, h, w] of the image.

        Raises:
            RuntimeError: no image was set.
        """
        if self.features is None:
            raise RuntimeError("no image is set: call set_image first")
        return self.features

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size whose longer side is the encoder's."""
        scale = self.model.image_encoder.image_size / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)

    def _scaled(self, places: torch.Tensor) -> torch.Tensor:
        """Places (x, y) [..., 2] of the image as it was, in the resized one."""
        self.get_image_embedding()
        assert self.original_size is not None
        height, width = self.original_size
        new_height, new_width = self._resized(height, width)
        return places * places.new_tensor([new_width / width, new_height / height])


def _as_array(x: torch.Tensor) -> numpy.ndarray:
    """Of the only prompt; numpy has no bfloat16."""
    return (x[0].float() if x.dtype is torch.bfloat16 else x[0]).cpu().numpy()
