"""Labels refined by a dense CRF, and training through it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastseg import PSPNet
from fastseg.crf import DenseCRF
from fastseg.models import FCNVGG16, DeepLabV1, DeepLabV2, SegmentationModel


def small(classes: int = 3, in_channels: int = 3) -> SegmentationModel:
    torch.manual_seed(0)
    model = PSPNet(
        "resnet18", None, classes=classes, in_channels=in_channels, psp_out_channels=8
    ).eval()
    torch.nn.init.normal_(model.segmentation_head[0].weight, 0.0, 1.0)
    return model


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_predict_labels_refines_as_segment(classes: int, bands: int) -> None:
    model = small(classes, bands)
    crf = DenseCRF.preset("deeplab", len(model.label_classes()))
    blocks = torch.randint(0, 256, (8, 8, bands), dtype=torch.uint8)  # with edges to follow
    image = blocks.repeat_interleave(5, 0).repeat_interleave(7, 1)
    labels = model.predict_labels(model.preprocess(image), crf=crf)
    assert labels.shape == (1, 40, 56) and labels.dtype is torch.uint8
    expected = model.segment(image, 56, crf)
    assert (labels[0] == expected).float().mean() > 0.99
    if classes > 1:
        assert (labels != model.predict_labels(model.preprocess(image))).any()


def test_photographs_undo_the_preprocessing() -> None:
    image = torch.randint(0, 256, (2, 8, 9, 3), dtype=torch.uint8)
    for model in (small(), FCNVGG16(2, widths=(2, 2, 2, 2, 2), hidden=2, bgr=True)):
        pixels = model.photographs(model.preprocess(image))
        torch.testing.assert_close(
            pixels, image.permute(0, 3, 1, 2).float(), rtol=0, atol=1e-3, check_stride=False
        )


def test_trained_through_the_mean_field() -> None:
    """The logits' gradient is the one through the CRF, whose own weights get one too."""
    model = small().double().train()
    crf = DenseCRF.preset("deeplab", 3).double()
    x = model.preprocess(torch.randint(0, 256, (2, 24, 32, 3), dtype=torch.uint8))
    target = torch.randint(0, 3, (2, 24, 32))
    logits = model(x)
    logits.retain_grad()
    F.cross_entropy(crf(logits, model.photographs(x)), target).backward()
    leaf = logits.detach().requires_grad_()
    F.cross_entropy(crf(leaf, model.photographs(x)), target).backward()
    torch.testing.assert_close(logits.grad, leaf.grad)
    weights = {**dict(model.named_parameters()), **dict(crf.named_parameters())}
    missing = [name for name, p in weights.items() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in weights.values() if p.requires_grad)


@pytest.mark.parametrize("arch", [DeepLabV1, DeepLabV2], ids=lambda cls: cls.__name__)
def test_deeplab_is_trained_end_to_end(arch: type[SegmentationModel]) -> None:
    """The gradient through all mean-field steps, down to the first convolution of the encoder,
    is that of finite differences."""
    torch.manual_seed(0)
    options = {"decoder_hidden": 4, "decoder_dropout": 0.0} if arch is DeepLabV1 else {}
    scales = {"scales": (0.5, 0.75), "decoder_atrous_rates": (1, 2)} if arch is DeepLabV2 else {}
    name = "vgg11" if arch is DeepLabV1 else "resnet18"
    model = arch(name, 4, None, classes=3, **options, **scales).double().eval()
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    crf = DenseCRF.preset("deeplab", 3, iterations=3).double()
    blocks = torch.randint(0, 256, (1, 5, 5, 3), dtype=torch.uint8)  # with edges to follow
    image = blocks.repeat_interleave(5, 1).repeat_interleave(5, 2)
    x, target = model.preprocess(image), torch.randint(0, 3, (1, 25, 25))
    photo = model.photographs(x)

    def loss() -> torch.Tensor:
        return F.cross_entropy(crf(model(x), photo), target)

    loss().backward()
    weight = next(model.parameters())
    assert weight is next(model.encoder.parameters())
    direction = torch.randn_like(weight)
    slope = (weight.grad * direction).sum()
    step, values = 1e-9, []  # so small that no ReLU changes sides
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        values.append(loss().detach())
        with torch.no_grad():
            weight -= sign * step * direction
    torch.testing.assert_close(slope, (values[0] - values[1]) / (2 * step), rtol=1e-4, atol=1e-6)
    assert slope.abs() > 1e-3
    with torch.no_grad():  # and it is another one than without the CRF
        assert (crf(model(x), photo).exp() - model(x).softmax(1)).abs().max() > 0.01


def test_a_crf_needs_the_pixels_of_the_logits() -> None:
    model = PSPNet("resnet18", None, classes=3, upsampling=4).eval()
    with pytest.raises(ValueError, match="logits have 16 x 24 pixels for an input of 32 x 48"):
        model.predict_labels(torch.randn(1, 3, 32, 48), crf=DenseCRF.preset("deeplab", 3))
