"""Segments images larger than memory, tile by tile, each with a halo around it."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy
import torch
from torch import nn

from ..models.base import SegmentationModel
from ..models.encoder_decoder import EncoderDecoder
from ..nn.logits import with_background
from ..ops.upsample_argmax import upsample_argmax


@torch.no_grad()
def predict_tiled(
    model: SegmentationModel,
    image: numpy.ndarray,
    tile: int = 1024,
    halo: int | None = None,
    exact: bool = False,
    out: numpy.ndarray | None = None,
) -> numpy.ndarray:
    """Labels every pixel of an image of any size, at its own resolution, tile by tile.

    Args:
        model: in eval mode.
        image: uint8 [H, W, bands], RGB for three bands; a numpy.memmap is read tile by tile.
        tile: side of a tile in pixels; rounded up to what fits the model.
        halo: pixels around a tile that the network sees too. By default 128; with `exact` the
            receptive field of the encoder, so that the result is exact.
        exact: whether only the encoder works on tiles, and its features are joined and decoded as
            a whole. With the default halo the labels are then those of the whole image, even if the
            model pools over the whole image; features and decoder must fit into memory. Otherwise
            each tile with its halo is an image of its own.
        out: uint8 [H, W] (int32 above 256 labels), for example a memmap, to write into.

    Returns:
        Labels [H, W]: `out` if given.

    Raises:
        TypeError: dtype of image or out.
        ValueError: their shapes, tile < 1, halo < 0, or exact with a model that is no
            EncoderDecoder.
    """
    if image.dtype != numpy.uint8:
        raise TypeError(f"image has dtype {image.dtype}, expected uint8")
    if image.ndim != 3 or image.shape[2] != model.in_channels or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}, expected [H, W, {model.in_channels}]")
    if tile < 1:
        raise ValueError(f"tile is {tile}, expected at least 1")
    if halo is not None and halo < 0:
        raise ValueError(f"halo is {halo}, expected at least 0")
    dtype = numpy.uint8 if len(model.label_classes()) <= 256 else numpy.int32
    if out is None:
        out = numpy.empty(image.shape[:2], dtype)
    if out.dtype != dtype:
        raise TypeError(f"out has dtype {out.dtype}, expected {numpy.dtype(dtype)}")
    if out.shape != image.shape[:2]:
        raise ValueError(f"out has shape {out.shape}, expected {image.shape[:2]}")
    if exact:
        if not isinstance(model, EncoderDecoder):
            raise ValueError(f"exact is True, which a {type(model).__name__} does not offer")
        return _decode_whole(model, image, tile, halo, out)
    step = max(model.size_step, 1)
    for inner, outer in _tiles(
        image.shape[:2], _up(tile, step), 128 if halo is None else halo, step
    ):
        labels = model.predict_labels(model.preprocess(numpy.ascontiguousarray(image[outer])))[0]
        rows, columns = _relative(inner, outer)
        out[inner] = labels[rows, columns].cpu().numpy()
    return out


def _decode_whole(
    model: EncoderDecoder, image: numpy.ndarray, tile: int, halo: int | None, out: numpy.ndarray
) -> numpy.ndarray:
    height, width = image.shape[:2]
    # The size that the whole image would be padded to; tiles at the border repeat it themselves.
    padded = model.padded_size(height, width)
    step = model.encoder.output_stride
    if halo is None:
        halo = receptive_field(model.encoder)
    maps: list[torch.Tensor] = []
    for inner, outer in _tiles(padded, _up(tile, step), _up(halo, step), step):
        rows = numpy.minimum(numpy.arange(outer[0].start, outer[0].stop), height - 1)
        columns = numpy.minimum(numpy.arange(outer[1].start, outer[1].stop), width - 1)
        features = model.encoder(model.preprocess(image[rows[:, None], columns]))
        maps = maps or [torch.empty(0)] * len(features)
        read = [i % len(features) for i in model.decoder.reads]
        for i, feature in enumerate(features):
            if i not in read:
                continue
            # Cells of a map lie on every stride-th pixel, the first on the first.
            stride = min(2**i, step)
            cells = [-(-side // stride) if model.rounds_up else side // stride for side in padded]
            maps[i] = _place(maps[i], feature, inner, outer, cells, stride)
    logits = with_background(model.decode(maps))
    size = model.output_size(*padded)
    labels = upsample_argmax(logits, size, align_corners=model.align_corners)[0]
    out[:] = labels[:height, :width].cpu().numpy()
    return out


def _place(
    whole: torch.Tensor,
    feature: torch.Tensor,
    inner: tuple[slice, slice],
    outer: tuple[slice, slice],
    cells: list[int],
    stride: int,
) -> torch.Tensor:
    """Copies a tile's cells into the map of the whole image, and makes that map if it is empty."""
    if whole.numel() == 0:
        shape = (1, feature.shape[1], *cells)
        whole = feature.new_empty(shape).contiguous(memory_format=torch.channels_last)
    target = tuple(
        slice(s.start // stride, min(-(-s.stop // stride), count))
        for s, count in zip(inner, cells, strict=True)
    )
    first = tuple(s.start // stride for s in outer)
    source = tuple(slice(t.start - f, t.stop - f) for t, f in zip(target, first, strict=True))
    whole[:, :, target[0], target[1]] = feature[:, :, source[0], source[1]]
    return whole


def _tiles(
    size: tuple[int, int], tile: int, halo: int, step: int
) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Yields each tile and its region with the halo; both start at multiples of `step`."""
    halo = _up(halo, step)
    height, width = size
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            inner = slice(y, min(y + tile, height)), slice(x, min(x + tile, width))
            outer = (
                slice(max(y - halo, 0), min(y + tile + halo, height)),
                slice(max(x - halo, 0), min(x + tile + halo, width)),
            )
            yield inner, outer


def _relative(inner: tuple[slice, slice], outer: tuple[slice, slice]) -> tuple[slice, slice]:
    (a, b), (c, d) = inner, outer
    return slice(a.start - c.start, a.stop - c.start), slice(b.start - d.start, b.stop - d.start)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def receptive_field(encoder: nn.Module, limit: int = 4096) -> int:
    """Measures how far, in pixels, the last features of an encoder see from their position.

    In a copy whose convolutions are plain means nothing cancels, so the gradient of one feature
    covers everything that the network's shape lets it see. A strip one pixel high is enough.

    Args:
        encoder: from a map to a list of maps, of convolutions, batch norms and pooling; square
            kernels.
        limit: largest distance in pixels.

    Returns:
        The distance in pixels, on each side.

    Raises:
        ValueError: the features see further than `limit`, or the whole image.
    """
    means = copy.deepcopy(encoder).double().cpu().eval()
    for module in list(means.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                # The gradient of a maximum covers one pixel of its window. The strip is one pixel
                # high; rounded down, its mean would have no row.
                mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, ceil_mode=True)
                setattr(module, name, mean)
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.reset_parameters()
    first = next(m for m in means.modules() if isinstance(m, nn.Conv2d))
    with torch.enable_grad():
        x = torch.ones(1, first.in_channels, 1, 2 * limit, dtype=torch.float64, requires_grad=True)
        features = means(x)[-1]
        stride = -(-x.shape[3] // features.shape[3])
        middle = features.shape[3] // 2
        (gradient,) = torch.autograd.grad(features[0, :, 0, middle].sum(), x)
    seen = gradient[0].abs().sum((0, 1)).nonzero().flatten() - middle * stride
    radius = int(seen.abs().max())
    if radius + stride >= limit:
        raise ValueError(f"the encoder sees further than {limit} pixels")
    return radius
