"""mask_argmax: the orders of the libraries, as their own lines have them; scores and counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from op_cases import Variant, variants

from fastseg import mask_argmax, mask_confusion_matrix, mask_scores
from fastseg.registry import ALL_OPS
from fastseg.testing import Maker, relative_error

each_variant = pytest.mark.parametrize("variant", variants(ALL_OPS["mask_argmax"]), ids=str)


def inputs(*shape: int, classes: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks [N, Q, h, w] and class logits [N, Q, C + 1], float64: no two scores are equal."""
    make = Maker(torch.float64)
    return make.map(*shape, scale=4.0), make.tensor(*shape[:2], classes + 1, scale=2.0)


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def of_detectron2(masks, logits, padded, image, loaded):
    """Masks to the padded image, semantic inference, crop, scores to the image as loaded."""
    x = resized(masks, padded).sigmoid()
    scores = torch.einsum("nqc,nqhw->nchw", logits.softmax(2)[..., :-1], x)
    return resized(scores[..., : image[0], : image[1]], loaded).argmax(1)


def of_maskformer_in_transformers(masks, logits, target):
    scores = torch.einsum("bqc,bqhw->bchw", logits.softmax(-1)[..., :-1], masks.sigmoid())
    return resized(scores, target).argmax(1)


def of_mask2former_in_transformers(masks, logits, target):
    return of_maskformer_in_transformers(resized(masks, (384, 384)), logits, target)


@each_variant
def test_the_order_of_detectron2(variant: Variant):
    masks, logits = inputs(2, 7, 8, 10)
    padded, image, loaded = (32, 40), (29, 37), (53, 61)
    with variant():
        labels = mask_argmax(masks, logits.softmax(2)[..., :-1], padded, image, loaded)
    assert torch.equal(labels.long(), of_detectron2(masks, logits, padded, image, loaded))


@each_variant
def test_the_orders_of_transformers(variant: Variant):
    masks, logits = inputs(1, 5, 8, 10)
    probabilities = logits.softmax(2)[..., :-1]
    target = (45, 61)
    with variant():
        maskformer = mask_argmax(masks, probabilities, out_size=target)
        mask2former = mask_argmax(masks, probabilities, 384, out_size=target)
    expected = of_maskformer_in_transformers(masks, logits, target)
    assert torch.equal(maskformer.long(), expected)
    other = of_mask2former_in_transformers(masks, logits, target)
    assert torch.equal(mask2former.long(), other)
    assert not torch.equal(expected, other)  # the order matters


def test_scores_are_those_of_the_labels_and_have_gradients():
    masks, logits = inputs(2, 4, 5, 6, classes=3)
    probabilities = logits.softmax(2)[..., :-1]
    sizes = {"size": (15, 18), "crop": (14, 16), "out_size": (20, 21)}
    scores = mask_scores(masks, probabilities, **sizes)
    assert torch.equal(scores.argmax(1), mask_argmax(masks, probabilities, **sizes).long())
    single = mask_scores(masks.float(), probabilities.float(), **sizes)
    assert single.dtype is torch.float32 and relative_error(single, scores) < 1e-6
    leaves = masks[:1, :2, :3, :3].clone().requires_grad_(), probabilities[:1, :2].clone()
    leaves[1].requires_grad_()
    assert torch.autograd.gradcheck(lambda m, p: mask_scores(m, p, 5, 4, 6), leaves, fast_mode=True)
    with pytest.raises(ValueError, match="crop is"):
        mask_scores(masks, probabilities, size=8, crop=9)


def test_the_confusion_matrix_counts_the_labels():
    masks, logits = inputs(2, 6, 7, 5, classes=4)
    probabilities = logits.softmax(2)[..., :-1]
    target = Maker().labels(2, 21, 15, classes=4, ignored=0.3, ignore_index=255)
    counts = mask_confusion_matrix(masks, probabilities, target, size=(28, 20), crop=(26, 19))
    labels = mask_argmax(masks, probabilities, (28, 20), (26, 19), (21, 15)).long()
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for truth, found in zip(target.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if truth != 255:
            expected[truth, found] += 1
    assert torch.equal(counts, expected)
    with pytest.raises(TypeError, match="target has dtype"):
        mask_confusion_matrix(masks, probabilities, target.float())


@each_variant
def test_far_masks_do_not_overflow(variant: Variant):
    masks = torch.tensor([[-1e4, 1e4], [88.0, -103.0]])[None, None].repeat(1, 2, 1, 1)
    probabilities = torch.tensor([[[0.2, 0.1, 0.0], [0.0, 0.2, 0.0]]])
    masks[:, 1] = -masks[:, 1]
    with variant():
        labels = mask_argmax(masks, probabilities)
    assert labels.tolist() == [[[1, 0], [0, 1]]]


@each_variant
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_probabilities_may_keep_float32(variant: Variant, dtype: torch.dtype):
    masks, logits = inputs(1, 5, 6, 7)
    masks, probabilities = masks.to(dtype), logits.float().softmax(2)[..., :-1]
    with variant():
        labels = mask_argmax(masks, probabilities, (24, 28))
    assert torch.equal(labels, mask_argmax(masks.double(), probabilities.double(), (24, 28)))
