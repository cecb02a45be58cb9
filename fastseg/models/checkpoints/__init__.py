"""Checkpoints of other libraries and their models: one file per library, one row per model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..base import SegmentationModel
from ..description import is_training_checkpoint, model_in
from ..files import StateDict, fill, read_tensors, unwrap
from . import (
    kazuto,
    mmseg,
    own,
    pytorch_fcn,
    semseg,
    smp,
    tensorflow,
    torchvision,
    transformers,
    u2net,
    vainf,
)
from .export import exported
from .family import Family

__all__ = ["FAMILIES", "Family", "export_checkpoint", "load_checkpoint"]

# The first that recognises a checkpoint is taken.
FAMILIES: tuple[Family, ...] = (
    *smp.FAMILIES,
    *own.FAMILIES,
    *torchvision.FAMILIES,
    *vainf.FAMILIES,
    *semseg.FAMILIES,
    *mmseg.FAMILIES,
    *tensorflow.FAMILIES,
    *transformers.FAMILIES,
    *kazuto.FAMILIES,
    *pytorch_fcn.FAMILIES,
    *u2net.FAMILIES,
)


def load_checkpoint(
    source: str | os.PathLike[str] | Mapping[str, Any], **arguments: Any
) -> SegmentationModel:
    """Builds the model that a checkpoint belongs to and loads every one of its weights.

    These checkpoints are recognised, by the names of their tensors:

    - segmentation_models_pytorch: FPN, PSPNet, DeepLabV3, DeepLabV3Plus, Unet, Segformer, UPerNet;
      with every encoder here
    - torchvision: FCN, DeepLabV3; ResNets. DeepLabV3, LR-ASPP; MobileNetV3
    - mmsegmentation 1.x: FCN, PSPNet, DeepLabV3, DeepLabV3+; ResNets; UNet; SegFormer; UPerNet;
      ResNets, Swins, ConvNeXts (with timm)
    - deeplab-pytorch (kazuto1011): DeepLab v2 with a ResNet, with the scales of its wrapper
    - pytorch-fcn (wkentaro): FCN-32s, FCN-16s, FCN-8s
    - transformers: SegFormer, and UPerNet with a Swin or a ConvNeXt (with timm), whose folders
      `from_pretrained` reads too
    - semseg: PSPNet; ResNets
    - DeepLabV3Plus-Pytorch (VainF): DeepLabV3, DeepLabV3+; ResNets
    - U2-Net and its small form, also with batch norms folded into the convolutions
    - TensorFlow: mobile DeepLab, also as MobileNetV2ForSemanticSegmentation of transformers, whose
      batch norms are folded into the convolutions
    - `fastseg train`: any model; the averaged weights are taken if there are some

    Where the libraries compute different things with weights of the same shapes (dilation of a
    stage's first block, align_corners, order of concatenation), the model does as its library.

    Args:
        source: file of torch.save (read with weights_only=True) or of safetensors, or a state dict.
            One level of wrapping ("state_dict", "model", ...) and the prefixes that DDP,
            torch.compile and Lightning put before the names are removed.
        arguments: of the model's constructor, where the checkpoint's differ from the family's
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


def export_checkpoint(model: SegmentationModel, family: str) -> StateDict:
    """The weights of a model as another library's checkpoint: the reverse of `load_checkpoint`.

    Args:
        model: with weights that the library has too.
        family: name of the library and its model, as `fastseg models` lists them:
            "torchvision-fcn", "mmseg-pspnet", "kazuto-deeplabv2".

    Returns:
        The library's names -> tensors, which are the model's own; torch.save them.

    Raises:
        ValueError: no such family, one that is only read, or one whose model computes something
            else with these weights; the message says what.
    """
    named = tuple(known for known in FAMILIES if known.name == family)
    if not named:
        allowed = ", ".join(dict.fromkeys(known.name for known in FAMILIES))
        raise ValueError(f"family is {family!r}, allowed are {allowed}")
    return exported(model, named)


def _build(origin: str, content: Any, given: dict[str, Any]) -> SegmentationModel:
    if is_training_checkpoint(content):
        return model_in(origin, content)
    state_dict = unwrap(origin, content, lambda names: _family_of(names) is not None)
    family = _recognise(origin, state_dict)
    state_dict = family.translated(state_dict)
    try:
        arguments = {**family.arguments(state_dict), **given}
    except KeyError:  # a tensor is missing: `fill` names it, against the standard variant
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
    if (family := _family_of(state_dict)) is not None:
        return family
    known = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    raise ValueError(
        f"{origin}: of no known family ({known}); it has {len(state_dict)} tensors, the first are "
        + ", ".join(list(state_dict)[:3])
    )


def _family_of(state_dict: StateDict) -> Family | None:
    return next((family for family in FAMILIES if family.recognises(state_dict)), None)
