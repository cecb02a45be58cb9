"""Test-time augmentation against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastseg import DeepLabV3Plus
from fastseg.inference import SlidingWindow, augmented_probabilities, sliding_window_scores


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=5).eval()


@pytest.fixture
def x():
    return torch.randn(1, 3, 64, 90, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def mean_of_views(model, x, scales, flip, size):
    views = []
    for scale in scales:
        view_size = round(x.shape[2] * scale), round(x.shape[3] * scale)
        view = F.interpolate(x, view_size, mode="bilinear") if scale != 1 else x
        for mirrored in (False, True) if flip else (False,):
            logits = model(view.flip(3) if mirrored else view)
            logits = logits.flip(3) if mirrored else logits
            if logits.shape[2:] != torch.Size(size):
                logits = F.interpolate(logits, size, mode="bilinear", align_corners=True)
            views.append(logits.softmax(1))
    return torch.stack(views).mean(0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [None, (100, 120)])
def test_mean_over_views(model, x, flip, size):
    scales = (0.75, 1.0, 1.5)
    ours = augmented_probabilities(model, x, scales, flip, size=size)
    expected = mean_of_views(model, x, scales, flip, size or (64, 90))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_one_plain_view_is_the_softmax(model, x):
    with torch.no_grad():
        expected = model(x).softmax(1)
    torch.testing.assert_close(augmented_probabilities(model, x, (1.0,), False), expected)


def test_mirroring_the_image_mirrors_the_result(model, x):
    ours = augmented_probabilities(model, x, (1.0, 1.25))
    mirrored = augmented_probabilities(model, x.flip(3), (1.0, 1.25))
    torch.testing.assert_close(mirrored, ours.flip(3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_views_through_windows(model, x, average):
    window = SlidingWindow(64, average=average)
    ours = augmented_probabilities(model, x, (1.0, 1.5), False, window)
    views = []
    for view in (x, F.interpolate(x, (96, 135), mode="bilinear")):
        scores = sliding_window_scores(model, view, window)
        if average == "logits":
            scores = F.interpolate(scores, (64, 90), mode="bilinear", align_corners=True)
            scores = scores.softmax(1)
        else:
            scores = F.interpolate(scores, (64, 90), mode="bilinear")
        views.append(scores)
    torch.testing.assert_close(ours, torch.stack(views).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (float("inf"),)])
def test_bad_scales(model, x, scales):
    with pytest.raises(ValueError, match="scales is"):
        augmented_probabilities(model, x, scales)
