"""Runs a model's predictions as one CUDA graph, without gaps between kernels."""

from __future__ import annotations

import torch

from .._checks import check_module
from ..models.base import SegmentationModel

_WARM_UP_CALLS = 3  # kernels are compiled, and cuDNN chooses its algorithms


class CapturedPredict:
    """Labels of images of one shape, computed by a CUDA graph; `capture` makes it.

    Args:
        model: one of ours, on a CUDA device; the graph reads its parameters at every call.
        images: an example of the images [N, C, H, W] to come.

    Attributes:
        shape, dtype, device: of the images that it takes.
    """

    def __init__(self, model: SegmentationModel, images: torch.Tensor) -> None:
        self.shape, self.dtype, self.device = images.shape, images.dtype, images.device
        self._model = model  # whose parameters the graph reads
        self._images = images.detach().clone(memory_format=torch.channels_last)
        with torch.cuda.device(self.device):
            # Warm up on a side stream, as the capture needs one too.
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_CALLS):
                    model.predict_labels(self._images)
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._labels = model.predict_labels(self._images)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Labels [N, H, W] of images [N, 3, H, W], in new memory, on the current stream.

        Raises:
            ValueError: shape or device other than at the capture. TypeError: dtype.
        """
        if images.shape != self.shape:
            raise ValueError(
                f"images has shape {tuple(images.shape)}, captured was {tuple(self.shape)}: "
                "capture the model again for another shape"
            )
        if images.device != self.device:
            raise ValueError(f"images is on {images.device}, captured was {self.device}")
        if images.dtype != self.dtype:
            raise TypeError(f"images has dtype {images.dtype}, captured was {self.dtype}")
        with torch.cuda.device(self.device):
            self._images.copy_(images)
            self._graph.replay()
            return self._labels.clone()


def capture(model: SegmentationModel, images: torch.Tensor) -> CapturedPredict:
    """`model.predict_labels` for images of this shape, as one CUDA graph.

    One call starts all kernels of a prediction. This saves most of the time for small images and
    batches, whose kernels end sooner than Python starts the next one. Weights that are changed
    in place afterwards count, as do others loaded with load_state_dict; a model moved to another
    device or dtype must be captured again. The graph keeps the memory of one prediction. Calls from
    several threads or streams at once share that memory, so the caller has to serialise them.

    `capture(fastseg.fuse(model), images)` is the fastest form.

    Args:
        model: in eval mode, on a CUDA device.
        images: map [N, 3, H, W] on the model's device; its values do not matter.

    Returns:
        A function of images of this shape, dtype and device, whose results are predict_labels'.

    Raises:
        ValueError: model in training mode, images not on a CUDA device, or not on the model's.
        TypeError: model is no module.
    """
    check_module(model)
    if model.training:
        raise ValueError("model is in training mode, capture needs eval(): statistics would change")
    if not images.is_cuda:
        raise ValueError(
            f"images is on {images.device}, capture needs a CUDA device: "
            "call model.predict_labels there"
        )
    device = next(model.parameters()).device
    if device != images.device:
        raise ValueError(f"images is on {images.device}, expected {device} as the model")
    return CapturedPredict(model, images)
