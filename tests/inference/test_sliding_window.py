"""Sliding windows against the definitions of mmsegmentation and semseg, written out plainly."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fastseg import DeepLabV3Plus
from fastseg.inference import SlidingWindow, predict_sliding_window, sliding_window_scores
from fastseg.inference.sliding_window import window_starts


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=5).eval()


@pytest.fixture
def make_input():
    return lambda *size: torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def full_logits(model, x):
    with torch.no_grad():
        return model(x)


def mean_of_logits(model, x, crop, stride):
    """Each crop's logits padded to the whole image and added; divided by the count."""
    height, width = x.shape[2:]
    rows = max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1
    total, count = torch.zeros(x.shape[0], 5, height, width), torch.zeros(height, width)
    for i in range(rows):
        for j in range(columns):
            bottom = min(i * stride[0] + crop[0], height)
            right = min(j * stride[1] + crop[1], width)
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            logits = full_logits(model, x[:, :, top:bottom, left:right])
            total += F.pad(logits, (left, width - right, top, height - bottom))
            count[top:bottom, left:right] += 1
    return total / count


def mean_of_probabilities(model, x, crop, flip):
    """Padded around to the crop, strides of two thirds, in float64."""
    height, width = x.shape[2:]
    missing = [max(c - s, 0) for c, s in zip(crop, (height, width), strict=True)]
    top, left = missing[0] // 2, missing[1] // 2
    x = F.pad(x, (left, missing[1] - left, top, missing[0] - top))
    stride = [math.ceil(c * 2 / 3) for c in crop]
    total = torch.zeros(x.shape[0], 5, *x.shape[2:], dtype=torch.float64)
    count = torch.zeros(x.shape[2:], dtype=torch.float64)
    for i in range(math.ceil((x.shape[2] - crop[0]) / stride[0]) + 1):
        for j in range(math.ceil((x.shape[3] - crop[1]) / stride[1]) + 1):
            bottom = min(i * stride[0] + crop[0], x.shape[2])
            right = min(j * stride[1] + crop[1], x.shape[3])
            window = (..., slice(bottom - crop[0], bottom), slice(right - crop[1], right))
            part = full_logits(model, x[window]).softmax(1)
            if flip:
                part = (part + full_logits(model, x[window].flip(3)).softmax(1).flip(3)) / 2
            total[window] += part
            count[window] += 1
    return (total / count)[..., top : top + height, left : left + width]


@pytest.mark.parametrize(
    ("size", "crop", "stride"),
    [
        ((96, 128), (64, 64), (48, 40)),
        ((90, 130), (64, 96), (64, 50)),  # sizes that fit neither the stride nor the network
        ((48, 160), (64, 64), (32, 32)),  # lower than a crop
        ((40, 50), (64, 64), (32, 32)),  # smaller than a crop
    ],
)
@pytest.mark.parametrize("batch_size", [1, 6])
def test_logits_are_averaged_as_in_mmsegmentation(
    model, make_input, size, crop, stride, batch_size
):
    x = make_input(*size)
    window = SlidingWindow(crop, stride, batch_size=batch_size)
    ours = sliding_window_scores(model, x, window)
    torch.testing.assert_close(ours, mean_of_logits(model, x, crop, stride), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(96, 130), (50, 100), (33, 47)])
@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_are_averaged_as_in_semseg(model, make_input, size, flip):
    x = make_input(*size)
    window = SlidingWindow((64, 80), average="probabilities", flip=flip)
    ours = sliding_window_scores(model, x, window)
    expected = mean_of_probabilities(model, x, (64, 80), flip)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.sum(1), torch.ones(2, *size))


def test_one_window_is_the_whole_image(model, make_input):
    x = make_input(64, 64)
    scores = sliding_window_scores(model, x, SlidingWindow(64))
    torch.testing.assert_close(scores, full_logits(model, x), rtol=1e-5, atol=1e-5)


def test_labels_come_from_the_averaged_logits_at_any_size(model, make_input):
    x = make_input(96, 96)
    window = SlidingWindow(64, 32)
    labels = predict_sliding_window(model, x, window, size=(150, 200))
    scores = sliding_window_scores(model, x, window)
    expected = F.interpolate(scores, (150, 200), mode="bilinear", align_corners=True)
    top = expected.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-4
    assert labels.dtype is torch.uint8
    assert clear.float().mean() > 0.99
    assert torch.equal(labels[clear].long(), expected.argmax(1)[clear])


def test_binary_models_have_a_threshold(make_input):
    torch.manual_seed(0)
    binary = DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=1).eval()
    x = make_input(64, 96)
    for average in ("logits", "probabilities"):
        window = SlidingWindow(64, average=average)
        scores = sliding_window_scores(binary, x, window)
        chance = scores.sigmoid() if average == "logits" else scores
        middle = chance.median().item()
        labels = predict_sliding_window(binary, x, window, threshold=middle)
        assert torch.equal(labels.bool(), (chance > middle)[:, 0])


def test_every_pixel_is_seen_and_none_beyond():
    for length in (1, 63, 64, 65, 200):
        starts = window_starts(length, min(64, length), 43)
        seen = {p for s in starts for p in range(s, s + min(64, length))}
        assert seen == set(range(length))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop": 0}, "crop is 0"),
        ({"crop": 64, "stride": 65}, "stride is 65"),
        ({"crop": 64, "stride": 0}, "stride is 0"),
        ({"crop": 64, "average": "labels"}, "average is 'labels'"),
        ({"crop": 64, "flip": True}, "flip is True"),
        ({"crop": 64, "batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_windows(arguments, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(**arguments)


def test_bad_input(model):
    with pytest.raises(ValueError, match="x has shape"):
        sliding_window_scores(model, torch.zeros(3, 64, 64), SlidingWindow(64))
