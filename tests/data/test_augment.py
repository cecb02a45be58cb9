"""Random views: where their pixels come from, and that they can be had again."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy
import pytest
import torch

pytest.importorskip("PIL")

from tiny_data import make_dataset, read

from fastseg.data import Augmentation, Batches, Sampler


def plain(crop: tuple[int, int], size: int, **options: object) -> Augmentation:
    """Without randomness but the crop's place."""
    options = {"scale": (1.0, 1.0), "flip": False, **options}
    return Augmentation(
        crop, size, brightness=0, contrast=0, saturation=0, hue=0,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def coordinates(height: int, width: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """An image whose red and green are the row and the column, and labels that are their parity."""
    rows, columns = numpy.mgrid[:height, :width]
    image = numpy.stack([rows, columns, 0 * rows], axis=2).astype(numpy.uint8)
    return image, ((rows // 8 + columns // 8) % 2).astype(numpy.uint8)


def test_window_at_scale_one_is_a_crop() -> None:
    image, label = coordinates(60, 80)
    for seed in range(5):
        view, labels, color = plain((24, 32), 80)(image, label, numpy.random.default_rng(seed))
        top, left = int(view[0, 0, 0]), int(view[0, 0, 1])
        assert numpy.array_equal(view, image[top : top + 24, left : left + 32])
        assert numpy.array_equal(labels, label[top : top + 24, left : left + 32])
        assert color == pytest.approx(numpy.eye(3, 4))


def test_image_and_labels_stay_aligned_when_scaled() -> None:
    """Colours tell the place in the image; labels must be those of that place."""
    image, label = coordinates(120, 160)
    for seed in range(20):
        augmentation = plain((48, 64), 160, scale=(0.6, 2.0), flip=True)
        view, labels, _ = augmentation(image, label, numpy.random.default_rng(seed))
        inside = labels != 255
        rows, columns = view[..., 0].astype(float), view[..., 1].astype(float)
        expected = (rows.astype(int) // 8 + columns.astype(int) // 8) % 2
        edge = (rows % 8 < 1.5) | (rows % 8 > 6.5) | (columns % 8 < 1.5) | (columns % 8 > 6.5)
        sure = inside & ~edge
        assert sure.sum() > 200
        assert numpy.array_equal(expected[sure], labels[sure])


def test_small_images_are_placed_on_the_fill() -> None:
    image = numpy.full((20, 30, 3), 200, dtype=numpy.uint8)
    label = numpy.ones((20, 30), dtype=numpy.uint8)
    places = set()
    for seed in range(10):
        augmentation = plain((40, 50), 30, fill=(1, 2, 3))
        view, labels, _ = augmentation(image, label, numpy.random.default_rng(seed))
        assert (labels == 1).sum() == 600
        assert (labels == 255).sum() == 1400
        assert numpy.array_equal(view[labels == 1], numpy.full((600, 3), 200))
        assert numpy.array_equal(view[labels == 255], numpy.tile([1, 2, 3], (1400, 1)))
        places.add(tuple(numpy.argwhere(labels == 1)[0]))
    assert len(places) > 5


def test_working_size_is_the_longer_side() -> None:
    image, label = coordinates(60, 80)
    view, labels, _ = plain((30, 40), 40)(image, label, numpy.random.default_rng(0))
    assert (labels != 255).all()
    assert view[-1, -1, 0] >= 57
    assert view[-1, -1, 1] >= 77


def test_color_changes() -> None:
    """Saturation 0 gives grey; a turn of the hue by a third swaps the primaries; grey stays."""
    image = numpy.full((4, 4, 3), (200, 40, 90), dtype=numpy.uint8)
    label = numpy.zeros((4, 4), dtype=numpy.uint8)

    def change(**strength: float) -> list[numpy.ndarray]:
        options = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0) | strength
        augmentation = Augmentation((4, 4), 4, scale=(1, 1), flip=False, **options)  # type: ignore[arg-type]
        rngs = (numpy.random.default_rng(seed) for seed in range(30))
        return [augmentation(image, label, rng)[2] for rng in rngs]

    rgb = numpy.array([200, 40, 90])
    grey = numpy.array([100, 100, 100])
    for matrix in change(hue=0.5):
        turned = matrix[:, :3] @ rgb + matrix[:, 3]
        assert turned.sum() == pytest.approx(rgb.sum(), rel=1e-5)
        assert matrix[:, :3] @ grey == pytest.approx(grey)
    for matrix in change(saturation=1.0):
        assert matrix[:, :3] @ grey == pytest.approx(grey)
    for matrix in change(contrast=0.5):  # about the mean, which is this colour's grey
        middle = 0.299 * 200 + 0.587 * 40 + 0.114 * 90
        assert matrix[:, :3] @ numpy.full(3, middle) + matrix[:, 3] == pytest.approx(middle)
    factors = [matrix[0, 0] for matrix in change(brightness=0.3)]
    assert 0.7 <= min(factors) < 0.85 < 1.15 < max(factors) <= 1.3
    assert colorsys.rgb_to_hsv(200, 40, 90)[0] == pytest.approx(0.948, abs=1e-3)


@pytest.mark.parametrize("bands", [1, 2, 4, 5])
def test_bands_are_resized_and_changed_alike(bands: int) -> None:
    """Each band of a view is that of the same window of an RGB image; only its contrast differs."""
    image, label = coordinates(120, 160)
    several = image[..., numpy.arange(bands) % 3]
    augmentation = Augmentation((48, 64), 160, fill=(9,) * 3, hue=0.0, saturation=0.0)
    other = Augmentation((48, 64), 160, fill=(9,) * bands, hue=0.0, saturation=0.0)
    for seed in range(5):
        view, labels, _ = augmentation(image, label, numpy.random.default_rng(seed))
        values, same, change = other(several, label, numpy.random.default_rng(seed))
        assert numpy.array_equal(labels, same)
        assert numpy.array_equal(values, view[..., numpy.arange(bands) % 3])
        assert change.shape == (bands, bands + 1) and change.dtype == numpy.float32
        matrix, offset = change[:, :bands], change[:, bands]
        assert numpy.array_equal(matrix, matrix[0, 0] * numpy.eye(bands, dtype="float32"))
        # Contrast about the band's own mean leaves that mean to the brightness alone.
        mean = values.mean((0, 1))
        brightness = (matrix @ mean + offset)[mean > 0] / mean[mean > 0]
        assert brightness == pytest.approx(brightness[0])


def test_samples_depend_on_seed_and_position_alone(tmp_path: Path) -> None:
    split = read(make_dataset(tmp_path, {"train": 5}), "train")
    augmentation = Augmentation((32, 40), 64)

    def take(threads: int, groups: list[range], seed: int = 3) -> list[torch.Tensor]:
        batches = Batches(split, augmentation, Sampler(5, seed), threads=threads)
        parts = list(batches.stream(iter(groups)))
        return [
            torch.cat([getattr(part, name) for part in parts])
            for name in ("images", "labels", "colors")
        ]

    whole = take(0, [range(0, 12)])
    for other in (
        take(0, [range(0, 4), range(4, 8), range(8, 12)]),
        take(3, [range(0, 4), range(4, 8), range(8, 12)]),
        take(2, [range(i, i + 1) for i in range(12)]),
    ):
        assert all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))
    assert not torch.equal(whole[0], take(0, [range(0, 12)], seed=4)[0])


def test_every_image_once_per_epoch() -> None:
    sampler = Sampler(7, seed=1)
    epochs = [[sampler.image(7 * epoch + i) for i in range(7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
