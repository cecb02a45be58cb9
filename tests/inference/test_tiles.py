"""Tiles: exact where they say so, and every pixel written."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import nn

from fastseg import DeepLabV3Plus, PSPNet, Unet
from fastseg.inference import predict_tiled, receptive_field
from fastseg.models.encoders import make_encoder


def random_image(height, width):
    generator = numpy.random.default_rng(0)
    coarse = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=numpy.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width].copy()


def make_model(kind):
    """A random network with labels that vary over the image."""
    torch.manual_seed(0)
    model = kind("mobilenet_v2", encoder_weights=None, classes=4).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():
        mean = model.coarse_logits(model.preprocess(random_image(96, 96))).mean((0, 2, 3))
        model.segmentation_head[0].bias -= mean
    return model


def unet_of_vgg(_, **options):
    return Unet("vgg11", decoder_channels=(16, 16, 16, 8, 8), **options)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (PSPNet, (200, 333)),  # wider than a tile and its halo
        (PSPNet, (161, 177)),  # logits on the corner pixels
        (DeepLabV3Plus, (90, 130)),  # padded; features at two strides
        (DeepLabV3Plus, (96, 128)),
        (Unet, (90, 131)),  # features at every stride, of a size that none of them divides
        (unet_of_vgg, (90, 131)),  # whose poolings leave out the rest of an odd size
    ],
)
def test_exact_tiles_give_the_whole_image(kind, size):
    model, image = make_model(kind), random_image(*size)
    x = model.preprocess(image)
    with torch.no_grad():
        logits = model(x)[0]
    labels = predict_tiled(model, image, tile=64, exact=True)
    top = logits.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-4 * logits.abs().max()).numpy()
    assert clear.mean() > 0.95
    assert len(numpy.unique(labels)) > 1
    assert (labels == logits.argmax(0).numpy())[clear].all()


def test_without_halo_exact_tiles_differ():
    """The test above can fail: what a tile sees matters."""
    model, image = make_model(DeepLabV3Plus), random_image(90, 130)
    whole = predict_tiled(model, image, tile=64, exact=True)
    assert (predict_tiled(model, image, tile=64, exact=True, halo=0) != whole).mean() > 0.001


def test_plain_tiles_cover_the_image():
    model, image = make_model(DeepLabV3Plus), random_image(150, 210)
    out = numpy.full((150, 210), 255, numpy.uint8)
    labels = predict_tiled(model, image, tile=64, halo=32, out=out)
    assert labels is out
    assert labels.max() < 4
    # A single tile is the image itself.
    alone = predict_tiled(model, image, tile=512)
    assert (alone == model.predict_labels(model.preprocess(image))[0].numpy()).all()


def test_from_file_to_file(tmp_path):
    model, image = make_model(DeepLabV3Plus), random_image(100, 130)
    numpy.save(tmp_path / "image.npy", image)
    source = numpy.load(tmp_path / "image.npy", mmap_mode="r")
    out = numpy.lib.format.open_memmap(
        tmp_path / "labels.npy", mode="w+", dtype=numpy.uint8, shape=(100, 130)
    )
    for exact in (False, True):
        predict_tiled(model, source, tile=64, exact=exact, out=out)
        assert (out == predict_tiled(model, image, tile=64, exact=exact)).all()


def test_receptive_field_of_known_networks():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.b = nn.Conv2d(4, 4, 3, padding=2, dilation=2)

        def forward(self, x):
            return [x, self.b(self.a(x).relu())]

    # 1 pixel of the first convolution, 2 cells of stride 2 of the second.
    assert receptive_field(Plain()) == 5
    assert receptive_field(make_encoder("resnet18", 3, 5, None, 32)) == 217
    with pytest.raises(ValueError, match="sees further than 64"):
        receptive_field(make_encoder("resnet18", 3, 5, None, 32), limit=64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image": numpy.zeros((8, 8, 3), numpy.float32)}, TypeError, "image has dtype"),
        ({"image": numpy.zeros((8, 8), numpy.uint8)}, ValueError, "image has shape"),
        ({"tile": 0}, ValueError, "tile is 0"),
        ({"halo": -1}, ValueError, "halo is -1"),
        ({"out": numpy.zeros((64, 64), numpy.int64)}, TypeError, "out has dtype"),
        ({"out": numpy.zeros((64, 63), numpy.uint8)}, ValueError, "out has shape"),
    ],
)
def test_bad_arguments(arguments, error, message):
    model = make_model(DeepLabV3Plus)
    with pytest.raises(error, match=message):
        predict_tiled(model, **{"image": random_image(64, 64), **arguments})


def test_exact_needs_an_encoder():
    from fastseg.models import TFDeepLabMobileNetV2

    with pytest.raises(ValueError, match="exact is True"):
        predict_tiled(TFDeepLabMobileNetV2(3), random_image(64, 64), exact=True)
