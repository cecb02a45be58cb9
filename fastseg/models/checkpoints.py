"""From a checkpoint to its model: the family is recognised from the names of the tensors."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from . import foreign_names as foreign
from . import hf_deeplab_mobilenetv2
from .base import SegmentationModel
from .deeplabv3 import DeepLabV3, DeepLabV3Plus
from .description import is_training_checkpoint, model_in
from .files import StateDict, fill, read_tensors, unwrap
from .pspnet import PSPNet
from .smp_arguments import deeplabv3_arguments, deeplabv3plus_arguments, pspnet_arguments
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2


@dataclasses.dataclass(frozen=True)
class Family:
    """Checkpoints whose tensors have the same names: one model class, whatever the widths.

    Attributes:
        name: how messages and the CLI call it.
        model: its class.
        arguments: reads the constructor's arguments off a state dict; where it raises KeyError for
            a missing tensor, `model()` is the variant that the checkpoint is compared with.
        signature: prefixes that, all present, tell this family from every other.
        without: prefixes that tell another family which has the same ones too.
        names: what prefixes of its names are ours, where they differ.
        convert: gives its tensors as we have them, where they differ in more than their names.
    """

    name: str
    model: Any
    arguments: Callable[[StateDict], dict[str, Any]]
    signature: tuple[str, ...]
    without: tuple[str, ...] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    convert: Callable[[StateDict], StateDict] | None = None


FAMILIES = (
    Family(
        "smp-deeplabv3plus",
        DeepLabV3Plus,
        deeplabv3plus_arguments,
        ("encoder.", "decoder.aspp.0.", "decoder.block1.", "segmentation_head."),
    ),
    Family(
        "smp-deeplabv3",
        DeepLabV3,
        deeplabv3_arguments,
        ("encoder.", "decoder.aspp.convs.", "decoder.conv.", "segmentation_head."),
    ),
    Family(
        "smp-pspnet",
        PSPNet,
        pspnet_arguments,
        ("encoder.", "decoder.psp.blocks.", "decoder.conv.", "segmentation_head."),
    ),
    Family(
        "torchvision-deeplabv3",
        DeepLabV3,
        foreign.torchvision_deeplabv3_arguments,
        ("backbone.", "classifier.0.convs.", "classifier.4."),
        names=foreign.TORCHVISION_DEEPLABV3,
    ),
    Family(
        "vainf-deeplabv3",
        DeepLabV3,
        foreign.vainf_deeplabv3_arguments,
        ("backbone.", "classifier.classifier.0.convs."),
        names=foreign.VAINF_DEEPLABV3,
    ),
    Family(
        "vainf-deeplabv3plus",
        DeepLabV3Plus,
        foreign.vainf_deeplabv3plus_arguments,
        ("backbone.", "classifier.project.", "classifier.aspp."),
        names=foreign.VAINF_DEEPLABV3PLUS,
    ),
    Family(
        "semseg-pspnet",
        PSPNet,
        foreign.semseg_pspnet_arguments,
        ("layer0.", "ppm.features.", "cls."),
        names=foreign.SEMSEG_PSPNET,
    ),
    Family(
        "mmseg-pspnet",
        PSPNet,
        foreign.mmseg_pspnet_arguments,
        ("backbone.", "decode_head.psp_modules.", "decode_head.bottleneck.conv."),
        ("decode_head.lateral_convs.",),
        foreign.MMSEG_PSPNET,
    ),
    Family(
        "mmseg-deeplabv3",
        DeepLabV3,
        foreign.mmseg_deeplabv3_arguments,
        ("backbone.", "decode_head.image_pool.", "decode_head.aspp_modules."),
        ("decode_head.sep_bottleneck.",),
        foreign.MMSEG_DEEPLABV3,
    ),
    Family(
        "mmseg-deeplabv3plus",
        DeepLabV3Plus,
        foreign.mmseg_deeplabv3plus_arguments,
        ("backbone.", "decode_head.image_pool.", "decode_head.sep_bottleneck."),
        names=foreign.MMSEG_DEEPLABV3PLUS,
    ),
    Family(
        "tf-deeplab-mobilenetv2",
        TFDeepLabMobileNetV2,
        TFDeepLabMobileNetV2.arguments,
        ("stem.", "blocks.1.depthwise.", "image_pooling.", "aspp0.", "concat_projection."),
    ),
    Family(
        "hf-deeplab-mobilenetv2",
        TFDeepLabMobileNetV2,
        TFDeepLabMobileNetV2.arguments,
        ("mobilenet_v2.conv_stem.", "segmentation_head.conv_pool."),
        convert=hf_deeplab_mobilenetv2.converted,
    ),
)


def load_checkpoint(
    source: str | os.PathLike[str] | Mapping[str, Any], **arguments: Any
) -> SegmentationModel:
    """Builds the model that a checkpoint belongs to and loads its weights, every one of them.

    Known are smp's PSPNet, DeepLabV3 and DeepLabV3Plus, torchvision's DeepLabV3, PSPNet, DeepLabV3
    and DeepLabV3Plus of mmsegmentation 1.x, semseg's PSPNet, DeepLabV3 and DeepLabV3Plus of
    DeepLabV3Plus-Pytorch (VainF), all with ResNets (smp's with MobileNetV2 too), and TensorFlow's
    mobile DeepLab, also as MobileNetV2ForSemanticSegmentation of transformers (its batch norms are
    folded into the convolutions). What these do differently with weights of the same shapes
    (dilation of a stage's first block, align_corners, order of concatenation) is set as there.

    Args:
        source: file of torch.save (read with weights_only=True) or of safetensors, or a state dict.
            One level of wrapping ("state_dict", "model", ...) and the prefixes of DDP and
            torch.compile are removed. Or a checkpoint of `fastseg train`, which says all of the
            model itself; its averaged weights are taken where it has them.
        arguments: of the model's constructor, where the checkpoint's are other than the family's
            usual ones, such as encoder_output_stride=8.

    What is not in the weights (output stride, atrous rates, dropout, activation) has the default of
    the model's constructor; `save_pretrained` and `from_pretrained` keep it. Tensors of encoder
    stages that the model does not use are dropped with a warning.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, damaged, of no known family, or has missing, unused
            or misshapen tensors; the message names the file and all of them.
    """
    if isinstance(source, Mapping):
        return _build("the state dict", source, arguments)
    path = Path(source)
    return _build(str(path), read_tensors(path), arguments)


def _build(origin: str, content: Any, given: dict[str, Any]) -> SegmentationModel:
    if is_training_checkpoint(content):
        return model_in(origin, content)
    state_dict = unwrap(origin, content)
    family = _recognise(origin, state_dict)
    state_dict = foreign.renamed(state_dict, family.names)
    if family.convert is not None:
        state_dict = family.convert(state_dict)
    try:
        arguments = {**family.arguments(state_dict), **given}
    except KeyError:  # the standard variant then tells what is missing
        arguments = given
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise _unfit(origin, family, error) from error
    try:
        with torch.device("meta"):
            model = family.model(**arguments)
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise _unfit(origin, family, error) from error
    return fill(origin, family.name, model, state_dict)


def _unfit(origin: str, family: Family, error: Exception) -> ValueError:
    return ValueError(f"{origin}: the shapes of its tensors fit no {family.name} ({error})")


def _recognise(origin: str, state_dict: StateDict) -> Family:
    for family in FAMILIES:
        found = [any(k.startswith(prefix) for k in state_dict) for prefix in family.signature]
        if all(found) and not any(key.startswith(family.without) for key in state_dict):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ValueError(
        f"{origin}: of no known family ({known}); it has {len(state_dict)} tensors, the first are "
        + ", ".join(list(state_dict)[:3])
    )
