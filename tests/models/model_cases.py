"""Small variants of every model, as parameters for the tests that every model passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from fastseg.models import (
    FCN,
    FCNVGG16,
    FPN,
    LRASPP,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Plus,
    PlainUNet,
    PSPNet,
    SegFormer,
    SegmentationModel,
    TFDeepLabMobileNetV2,
    U2Net,
    Unet,
    UPerNet,
)
from fastseg.nn import SCSEAttention

TF_WIDTHS = (8, 12, 12, 8, 8, 8, 16, 16, 16, 16, 12, 12, 12, 20, 20, 20, 24)


@dataclasses.dataclass(frozen=True)
class ModelCase:
    """One variant.

    Attributes:
        make: builds it, with random weights and without dropout.
        sizes: inputs that fit as they are, then one that is padded.
        in_channels: of the input.
        in_weights: whether a state dict tells all of the arguments.
        trains_on_one: whether one image is enough to train, since no batch norm reads the mean of a
            whole image.
        fewest_maps: with more than 36 pixels, that operations make of the first of the sizes.
        uncalled: prefixes of names of modules that hold tensors which nothing reads, as in the
            library that the model comes from.
    """

    name: str
    make: Callable[[], SegmentationModel]
    sizes: tuple[tuple[int, int], ...] = ((48, 64), (49, 65), (50, 70))
    in_channels: int = 3
    in_weights: bool = True
    trains_on_one: bool = False
    fewest_maps: int = 12
    uncalled: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def model(self, training: bool = False) -> SegmentationModel:
        torch.manual_seed(0)
        model = self.make()
        # Batch norms as after some training: not the identity in eval mode.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0.0, 0.2)
                torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        return model.train(training)

    def images(self, index: int = 0, batch: int = 2) -> torch.Tensor:
        return torch.randn(batch, self.in_channels, *self.sizes[index])

    def target(self, model: SegmentationModel, x: torch.Tensor) -> torch.Tensor:
        """Labels for x, some of them 255 for "ignore"."""
        size = model.output_size(x.shape[2], x.shape[3])
        target = torch.randint(0, max(2, len(model.classes)), (x.shape[0], *size))
        target[:, 3:9, 5:20] = 255
        return target


def _deeplabv3() -> SegmentationModel:
    return DeepLabV3(
        "resnet18",
        encoder_weights=None,
        encoder_output_stride=16,
        decoder_channels=16,
        decoder_atrous_rates=(1, 2, 3),
        decoder_aspp_dropout=0.0,
        classes=4,
    )


def _deeplabv3_separable() -> SegmentationModel:
    return DeepLabV3(
        "mobilenet_v2",
        encoder_weights=None,
        encoder_output_stride=8,
        decoder_channels=8,
        decoder_aspp_separable=True,
        decoder_aspp_dropout=0.0,
        in_channels=4,
        classes=3,
    )


def _deeplabv3plus() -> SegmentationModel:
    return DeepLabV3Plus(
        "mobilenet_v2",
        encoder_weights=None,
        decoder_channels=24,
        decoder_aspp_dropout=0.0,
        classes=5,
    )


def _deeplabv3plus_one_class() -> SegmentationModel:
    return DeepLabV3Plus(
        "resnet18",
        encoder_weights=None,
        decoder_channels=16,
        decoder_aspp_dropout=0.0,
    )


def _pspnet() -> SegmentationModel:
    return PSPNet("resnet18", encoder_weights=None, psp_out_channels=32, psp_dropout=0.0, classes=6)


def _pspnet_cut_later() -> SegmentationModel:
    """Half the resolution at the end, no norms, align_corners=False."""
    return PSPNet(
        "mobilenet_v2",
        encoder_weights=None,
        encoder_depth=4,
        psp_out_channels=16,
        decoder_use_norm=False,
        psp_dropout=0.0,
        classes=3,
        upsampling=8,
        align_corners=False,
    )


def _pspnet_dilated() -> SegmentationModel:
    model = PSPNet.dilated(
        "resnet18",
        psp_out_channels=32,
        psp_dropout=0.0,
        classes=7,
        encoder_options={"stem_channels": (8, 8, 16)},
        auxiliary_channels=16,
    )
    assert isinstance(model.auxiliary_head, torch.nn.Sequential)
    model.auxiliary_head[3].p = 0.0
    return model


MIT = {"depths": (1, 1, 2, 1), "widths": (8, 16, 40, 64), "drop_path_rate": 0.0}


def _segformer() -> SegmentationModel:
    return SegFormer(
        "mit_b0",
        encoder_weights=None,
        decoder_segmentation_channels=24,
        classes=5,
        encoder_options=MIT,
    )


def _segformer_normed() -> SegmentationModel:
    """mmsegmentation's head, images of any size, another first level."""
    return SegFormer(
        "mit_b0",
        encoder_depth=4,
        encoder_weights=None,
        decoder_segmentation_channels=16,
        in_channels=4,
        encoder_options={**MIT, "expansions": (2, 3, 2, 2), "norm_eps": 1e-5},
        decoder_normed=True,
        align_corners=False,
    )


def _tf_deeplab() -> SegmentationModel:
    return TFDeepLabMobileNetV2(5, stem=8, widths=TF_WIDTHS, expansion=3, head=10)


def _unet() -> SegmentationModel:
    return Unet("resnet18", encoder_weights=None, decoder_channels=(32, 24, 16, 12, 8), classes=5)


def _unet_with_attention() -> SegmentationModel:
    """Attention, bilinear resizing, another norm, a cut encoder; one class, four channels."""
    model = Unet(
        "mobilenet_v2",
        encoder_depth=3,
        encoder_weights=None,
        decoder_use_norm={"type": "instancenorm", "affine": True},
        decoder_channels=(32, 16, 16),
        decoder_attention_type="scse",
        decoder_interpolation="bilinear",
        in_channels=4,
    )
    for module in model.modules():  # a hidden channel that is 0 for all images trains nothing
        if isinstance(module, SCSEAttention):
            torch.nn.init.ones_(module.cSE[1].bias)
    return model


def _fcn() -> SegmentationModel:
    model = FCN(
        "resnet18",
        encoder_weights=None,
        decoder_channels=16,
        decoder_convolutions=2,
        decoder_concat=True,
        decoder_dropout=0.0,
        classes=4,
        auxiliary_channels=8,
    )
    model.auxiliary_head[3].p = 0.0
    return model


SWIN = {
    "width": 8,
    "depths": (2, 1, 1, 1),
    "heads": (1, 2, 4, 4),
    "window": 4,
    "drop_path_rate": 0.0,
}


def _upernet() -> SegmentationModel:
    return UPerNet("resnet18", encoder_weights=None, decoder_channels=16, classes=4)


def _upernet_as_mmseg() -> SegmentationModel:
    """No norms of the features, an auxiliary head, images of any size, other grids; a Swin."""
    model = UPerNet(
        "swin_t",
        encoder_depth=4,
        encoder_weights=None,
        decoder_channels=16,
        in_channels=4,
        encoder_options=SWIN,
        decoder_feature_norm_eps=None,
        psp_bins=(2, 3),
        auxiliary_channels=8,
        align_corners=False,
    )
    assert isinstance(model.auxiliary_head, torch.nn.Sequential)
    model.auxiliary_head[3].p = 0.0
    return model


def _fcn_vgg16() -> SegmentationModel:
    """Scores that are not 0, and one deconvolution that is no longer bilinear."""
    model = FCNVGG16(4, widths=(4, 4, 6, 6, 8), hidden=12, dropout=0.0)
    for name, parameter in model.named_parameters():
        if name.startswith("score"):
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    torch.nn.init.normal_(model.upscore2.weight, 0.0, 0.2)
    return model


def _deeplabv1() -> SegmentationModel:
    """One class, four channels."""
    return DeepLabV1(
        "resnet18",
        encoder_depth=4,
        encoder_weights=None,
        decoder_hidden=12,
        decoder_atrous_rate=2,
        decoder_dropout=0.0,
        in_channels=4,
        classes=1,
    )


def _deeplabv2() -> SegmentationModel:
    """Scores that are not nearly 0, so that the same scale does not win everywhere."""
    model = DeepLabV2(
        "resnet18",
        encoder_depth=3,
        encoder_weights=None,
        decoder_atrous_rates=(1, 2),
        classes=4,
        encoder_options={"pool_ceil_mode": True},
        scales=(0.5,),
        align_corners=False,
    )
    for name, parameter in model.decoder.named_parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.02 if name.endswith("weight") else 0.1)
    return model


def _plain_unet() -> SegmentationModel:
    """mmsegmentation's, with its auxiliary head."""
    model = PlainUNet(3, base_channels=4, depth=4, head_channels=4, auxiliary_channels=4)
    model.dropout.p = model.auxiliary_head[3].p = 0.0
    return model


def _original_unet() -> SegmentationModel:
    return PlainUNet.original(base_channels=8, depth=3)


def _lraspp() -> SegmentationModel:
    return LRASPP(encoder_depth=4, encoder_output_stride=8, decoder_channels=8, classes=4)


def _fpn() -> SegmentationModel:
    return FPN(
        "mobilenet_v2",
        encoder_depth=4,
        encoder_weights=None,
        decoder_pyramid_channels=8,
        decoder_segmentation_channels=32,
        decoder_merge_policy="cat",
        decoder_dropout=0.0,
        classes=3,
        upsampling=2,
    )


def _u2net() -> SegmentationModel:
    sizes = (8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8)
    return U2Net(3, channels=sizes, hidden=(4, 6, 4, 4, 4, 4, 4, 4, 4, 6, 4))


CASES = (
    ModelCase(
        "deeplabv1-one-class-4-channels",
        _deeplabv1,
        ((32, 48), (33, 41), (30, 50)),
        in_channels=4,
        in_weights=False,
        trains_on_one=True,
        fewest_maps=6,
    ),
    ModelCase(
        "deeplabv2",
        _deeplabv2,
        ((48, 64), (33, 41), (30, 50)),
        in_weights=False,
        trains_on_one=True,
    ),
    ModelCase("deeplabv3", _deeplabv3, in_weights=False),
    ModelCase("deeplabv3-separable-4-channels", _deeplabv3_separable, in_channels=4),
    ModelCase("deeplabv3plus", _deeplabv3plus),
    ModelCase("deeplabv3plus-one-class", _deeplabv3plus_one_class),
    ModelCase("fcn", _fcn, trains_on_one=True),
    ModelCase(
        "fcn-vgg16",
        _fcn_vgg16,
        ((32, 48), (33, 41), (1, 20)),
        in_weights=False,
        trains_on_one=True,
    ),
    ModelCase("fpn", _fpn, ((32, 48), (33, 49), (30, 50)), trains_on_one=True),
    ModelCase(
        "lraspp",
        _lraspp,
        ((32, 48), (33, 41), (30, 50)),
        in_weights=False,
        trains_on_one=True,
        fewest_maps=8,
    ),
    ModelCase("plain-unet", _plain_unet, ((32, 48), (33, 41), (30, 50)), trains_on_one=True),
    ModelCase(
        "plain-unet-original-one-band",
        _original_unet,
        ((28, 36), (29, 41), (30, 50)),
        in_channels=1,
        trains_on_one=True,
    ),
    ModelCase("pspnet", _pspnet, trains_on_one=True),
    ModelCase(
        "pspnet-cut-later",
        _pspnet_cut_later,
        ((96, 128), (112, 96), (100, 125)),
        in_weights=False,
        trains_on_one=True,
    ),
    ModelCase("pspnet-dilated", _pspnet_dilated),
    ModelCase(
        "segformer", _segformer, ((64, 96), (65, 97), (70, 90)), trains_on_one=True, fewest_maps=6
    ),
    ModelCase(
        "segformer-normed-one-class",
        _segformer_normed,
        ((48, 64), (49, 65), (50, 71)),
        in_channels=4,
        in_weights=False,
        trains_on_one=True,
        fewest_maps=6,
    ),
    ModelCase("u2net", _u2net, ((64, 64), (49, 65), (50, 70)), trains_on_one=True),
    ModelCase(
        "unet",
        _unet,
        ((64, 96), (49, 65), (50, 70)),
        trains_on_one=True,
        uncalled=("decoder.blocks.4.attention1",),
    ),
    ModelCase(
        "unet-attention",
        _unet_with_attention,
        ((32, 48), (33, 41), (30, 50)),
        in_channels=4,
        in_weights=False,
        trains_on_one=True,
        uncalled=("decoder.blocks.2.attention1",),
    ),
    ModelCase("upernet", _upernet, ((64, 96), (65, 97), (70, 90))),
    ModelCase(
        "upernet-as-mmseg-one-class",
        _upernet_as_mmseg,
        ((64, 80), (49, 65), (50, 71)),
        in_channels=4,
        in_weights=False,
        trains_on_one=True,
        fewest_maps=6,
    ),
    ModelCase("tf-deeplab", _tf_deeplab, ((49, 65), (57, 73), (50, 70)), trains_on_one=True),
)

each_model = pytest.mark.parametrize("case", CASES, ids=str)
