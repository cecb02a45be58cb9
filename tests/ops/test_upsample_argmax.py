"""What is special about upsample_argmax and upsample_confusion_matrix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastseg import upsample_argmax, upsample_confusion_matrix, use_backend

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


@BACKENDS
def test_by_hand(backend):
    # Class 1 wins where it lies above 0.5: from the middle on.
    logits = torch.tensor([[[[0.5, 0.5]], [[0.0, 1.1]]]])
    with use_backend(backend):
        labels = upsample_argmax(logits, (2, 8))
    assert labels.tolist() == [[[0, 0, 0, 0, 1, 1, 1, 1]] * 2]


@BACKENDS
def test_label_types(backend):
    with use_backend(backend):
        assert upsample_argmax(torch.randn(1, 256, 2, 2), 4).dtype is torch.uint8
        assert upsample_argmax(torch.randn(1, 257, 2, 2), 4).dtype is torch.int32


@pytest.mark.parametrize("smooth", [False, True])
def test_leaving_out_classes_that_cannot_win_changes_nothing(smooth):
    """On smooth logits nearly every class is left out, on random ones some."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 19, 24, 31, generator=generator)
    if smooth:
        coarse = torch.randn(2, 19, 3, 4, generator=generator)
        logits = 3 * F.interpolate(coarse, (24, 31), mode="bicubic") + 0.1 * logits
    for size in ((192, 248), (61, 75), (24, 31), (9, 14)):
        expected = F.interpolate(logits, size, mode="bilinear").argmax(1)
        two = F.interpolate(logits, size, mode="bilinear").topk(2, 1).values
        decided = two[:, 0] - two[:, 1] > 1e-5
        labels = upsample_argmax(logits, size)
        assert torch.equal(labels[decided].long(), expected[decided])
        assert decided.float().mean() > 0.99


def test_the_matrix_counts_the_labels():
    logits = torch.randn(2, 7, 9, 8)
    target = torch.randint(0, 7, (2, 33, 40))
    target[0, :5] = 255
    matrix = upsample_confusion_matrix(logits, target, ignore_index=255)
    labels = upsample_argmax(logits, (33, 40)).long()
    expected = torch.zeros(7, 7, dtype=torch.int64)
    for t, p in zip(target.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if t != 255:
            expected[t, p] += 1
    assert torch.equal(matrix, expected)


def test_matrices_of_parts_add_up():
    logits = torch.randn(4, 5, 6, 6)
    target = torch.randint(0, 5, (4, 20, 20))
    parts = [upsample_confusion_matrix(logits[i : i + 1], target[i : i + 1]) for i in range(4)]
    assert torch.equal(sum(parts[1:], parts[0]), upsample_confusion_matrix(logits, target))
