"""Samples for the paths of CUDA kernels that the samples of an op (samples.py) do not reach: a row
per mask, tail, tile and vector path. They run in the emulation and on GPUs."""

from __future__ import annotations

from typing import Any

from cuda_samples_maps import MAP_SAMPLES

from fastseg.testing import Maker, Sample

# Pieces of up to 4x4 pixels (csrc/common/pixel_tiles.h), blocks of them, chunks of 8 classes (4 in
# float64): name, logits, size, layout, options.
_TILES: tuple[tuple[str, tuple[int, ...], tuple[int, int], str, dict[str, Any]], ...] = (
    ("x4: a whole piece per interval", (1, 9, 7, 6), (28, 24), "contiguous", {}),
    ("x8: two pieces per interval", (1, 5, 4, 5), (32, 40), "channels_last", {}),
    ("x16", (1, 3, 2, 3), (32, 48), "contiguous", {}),
    ("x8, corners", (1, 8, 3, 4), (17, 25), "contiguous", {"align_corners": True}),
    ("x6, corners: rounding moves outputs across sources", (1, 4, 6, 5), (31, 25), "contiguous",
     {"align_corners": True}),
    ("x3 and x5: odd scales", (1, 3, 7, 5), (21, 25), "channels_last", {}),
    ("scale just above 4", (1, 3, 7, 9), (29, 37), "contiguous", {}),
    ("several blocks in both axes", (2, 3, 36, 40), (72, 81), "contiguous", {}),
    ("several blocks, channels_last", (1, 17, 30, 34), (60, 68), "channels_last", {}),
    ("x75: blocks before the first source", (1, 3, 2, 2), (150, 140), "contiguous", {}),
    ("one row of pixels", (1, 4, 1, 70), (1, 280), "contiguous", {}),
    ("one column of pixels", (1, 4, 70, 1), (283, 1), "channels_last", {}),
    ("down in both axes, several blocks", (1, 2, 90, 80), (20, 31), "strided", {}),
    ("corners to one pixel", (1, 6, 5, 5), (1, 1), "contiguous", {"align_corners": True}),
    ("from one column, corners", (1, 4, 5, 1), (9, 11), "contiguous", {"align_corners": True}),
)  # fmt: skip


def _argmax(shape: tuple[int, ...], size: tuple[int, int], layout: str, options: Any) -> Any:
    return lambda make: {"logits": make.map(*shape, layout=layout), "size": size, **options}


def _with_target(shape: tuple[int, ...], size: tuple[int, int], layout: str, options: Any) -> Any:
    def inputs(make: Maker) -> dict[str, Any]:
        logits = make.map(*shape, layout=layout, scale=2.0)
        target = make.labels(shape[0], *size, classes=shape[1], ignored=0.2, ignore_index=255)
        return {"logits": logits, "target": target, "ignore_index": 255, **options}

    return inputs


def _far_apart(shape: tuple[int, ...], size: tuple[int, int], **options: Any) -> Any:
    """Rows of cells whose logits are so far apart that sums between them need their maximum."""

    def inputs(make: Maker) -> dict[str, Any]:
        logits = make.map(*shape)
        logits[:, 0, ::2] += 300.0
        logits[:, 1, 1::2] += 300.0
        return {"logits": logits, "target": make.labels(1, *size, classes=shape[1]), **options}

    return inputs


def _masks(shape: tuple[int, ...], classes: int, **sizes: Any) -> Any:
    def inputs(make: Maker) -> dict[str, Any]:
        probabilities = make.tensor(*shape[:2], classes, scale=2.0).softmax(2)
        return {"masks": make.map(*shape, scale=4.0), "class_probs": probabilities, **sizes}

    return inputs


def _many_on_one_cell(make: Maker) -> dict[str, Any]:
    """More than a warp's lanes of channels, and a bin with most of the points."""
    return {
        "value": make.tensor(2, 9, 2, 40),
        "shapes": ((3, 3),),
        "locations": make.tensor(2, 20, 2, 1, 2, 2, scale=0.02) + 0.6,
        "weights": make.tensor(2, 20, 2, 1, 2),
    }


CUDA_SAMPLES: dict[str, tuple[Sample, ...]] = {
    "deformable_attention": (
        Sample("packs of channels, most points in one bin", _many_on_one_cell),
    ),
    **MAP_SAMPLES,
    "mask_argmax": (
        Sample("more classes than a block sums at a time", _masks((1, 3, 3, 4), 75, size=(6, 9))),
        Sample("more queries than the large tile has", _masks((1, 180, 2, 3), 3, size=(3, 40))),
        Sample("more of them, resized twice", _masks((1, 175, 2, 3), 3, size=4, out_size=(3, 35))),
    ),
    "upsample_argmax": tuple(Sample(why, _argmax(*rest)) for why, *rest in _TILES),
    "upsample_cross_entropy": (
        *(Sample(why, _with_target(*rest)) for why, *rest in _TILES),
        # Without a mean over all pixels: the cells are so few that their rounding does not average.
        Sample(
            "far apart, more tiles than threads",
            _far_apart((1, 3, 2, 2), (150, 140), reduction="none"),
        ),
        Sample(
            "far apart, several chunks of classes, smoothing",
            _far_apart((1, 19, 5, 4), (19, 16), label_smoothing=0.1),
        ),
    ),
    "upsample_confusion_matrix": tuple(Sample(why, _with_target(*rest)) for why, *rest in _TILES),
}
