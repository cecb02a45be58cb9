"""Inputs with more than 2^31 elements, for ops with CUDA kernels: op -> (what is large, inputs).

The batch is larger than one image, so that the last image alone can be computed for comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Inputs = Callable[[], dict[str, Any]]


def _map(*shape: int, channels_last: bool = False) -> torch.Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(shape, device="cuda", dtype=torch.bfloat16, memory_format=layout)
    return x.normal_()


def _labels(*shape: int, classes: int) -> torch.Tensor:
    return torch.randint(0, classes, shape, device="cuda", dtype=torch.uint8)


def _bilinear(channels_last: bool) -> dict[str, Any]:
    return {"x": _map(3, 180, 512, 512, channels_last=channels_last), "size": (2048, 2048)}


def _logits(channels_last: bool) -> torch.Tensor:
    return _map(2, 150, 2688, 2688, channels_last=channels_last)


def _many_pixels(with_target: bool, **options: Any) -> dict[str, Any]:
    rest = {"target": _labels(2, 33000, 33000, classes=3)} if with_target else {"size": 33000}
    return {"logits": _map(2, 3, 40, 40), **rest, **options}


def _many_logits(channels_last: bool, with_target: bool, **options: Any) -> dict[str, Any]:
    rest = {"target": _labels(2, 2700, 2700, classes=150)} if with_target else {"size": 2700}
    return {"logits": _logits(channels_last), **rest, **options}


def _pool(channels_last: bool) -> dict[str, Any]:
    return {"x": _map(3, 2048, 600, 600, channels_last=channels_last), "bins": (1, 2, 3, 6)}


def _depthwise(channels_last: bool, stride: int = 1) -> dict[str, Any]:
    x = _map(3, 2048, 600, 600, channels_last=channels_last)
    options = {"stride": stride, "padding": 12, "dilation": 12, "groups": 2048}
    return {"x": x, "weight": _map(2048, 1, 3, 3), **options}


def _taps(channels: int, source: int, size: int) -> dict[str, Any]:
    x = _map(3, 9 * channels, source, source, channels_last=True)
    return {"x": x, "size": (size, size), "kernel": 3}


def _lattice() -> dict[str, Any]:
    """Values of 4.4 million pixels, whose lattice is small."""
    position = torch.arange(4_400_000, device="cuda") / 100_000
    features = torch.stack([position.sin(), position.cos()]).mul(3).bfloat16()
    return {"values": _map(3, 170, 4_400_000), "features": features.expand(3, -1, -1).clone()}


def _window() -> dict[str, Any]:
    return {"values": _map(3, 180, 2048, 2048), "features": _map(3, 2, 2048, 2048), "radius": 1}


def _attention(cells: bool) -> dict[str, Any]:
    """Many cells, or many queries, of three images with 8 heads of 128 channels."""
    side = 840 if cells else 8
    queries = 64 if cells else 705_000
    places = (3, queries, 8, 1, 1)
    return {
        "value": torch.randn(3, side * side, 8, 128, device="cuda").bfloat16(),
        "shapes": ((side, side),),
        "locations": torch.rand(*places, 2, device="cuda"),
        "weights": torch.rand(places, device="cuda"),
    }


def _masks(side: int, queries: int, size: int | None, out_size: int | None) -> dict[str, Any]:
    return {
        "masks": _map(3, queries, side, side),
        "class_probs": torch.rand(3, queries, 5, device="cuda").bfloat16(),
        "size": size,
        "out_size": out_size,
    }


LARGE: dict[str, dict[str, Inputs]] = {
    "mask_argmax": {
        "masks": lambda: _masks(2700, 100, None, 100),
        "labels": lambda: _masks(20, 2, 27000, None),
    },
    "deformable_attention": {
        "value": lambda: _attention(True),
        "result": lambda: _attention(False),
    },
    "upsample_bilinear": {
        "result": lambda: _bilinear(False),
        "result, channels_last": lambda: _bilinear(True),
    },
    "upsample_argmax": {
        "labels": lambda: _many_pixels(False),
        "logits": lambda: _many_logits(False, False),
        "logits, channels_last": lambda: _many_logits(True, False),
    },
    "upsample_confusion_matrix": {
        "target": lambda: _many_pixels(True),
        "logits": lambda: _many_logits(False, True),
    },
    "upsample_cross_entropy": {
        "target": lambda: _many_pixels(True, reduction="none"),
        "logits": lambda: _many_logits(False, True, reduction="none"),
        "logits, channels_last": lambda: _many_logits(True, True, reduction="none"),
    },
    "pyramid_pool": {
        "map": lambda: _pool(False),
        "map, channels_last": lambda: _pool(True),
    },
    "dilated_conv2d": {
        "map": lambda: _depthwise(False),
        "map, channels_last": lambda: _depthwise(True),
        "map, channels_last, stride 2": lambda: _depthwise(True, stride=2),
    },
    "permutohedral_filter": {
        "values": _lattice,
    },
    "window_filter": {
        "values": _window,
    },
    "upsample_taps": {
        "result": lambda: _taps(180, 512, 2048),
        "taps": lambda: _taps(320, 512, 600),
    },
}
