"""Which encoder a state dict holds, read off the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from ..encoders import ENCODERS, make_encoder
from ..encoders.vgg import VGG_COUNTS
from ..files import StateDict

# Blocks of the four stages. Where the stages that are present fit several, the first is taken: it
# has the same values as the others.
_BASIC = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
_BOTTLENECK = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
# What each kind of encoder reads the image with.
_FIRST_WEIGHTS = (
    "encoder.conv1.weight",
    "encoder.conv1.0.weight",
    "encoder.features.0.0.weight",
    "encoder.features.0.weight",
)


def encoder_arguments(
    state_dict: StateDict, reader: str | None, options: dict[str, Any], depth: int | None = None
) -> dict[str, Any]:
    """The arguments that every model with an encoder takes.

    Args:
        reader: name of a weight that reads the encoder's last features.
        options: of the encoder, as `stem_options` has them.
        depth: halvings of the encoder, where the model tells it without a reader.

    Raises:
        ValueError: the encoder is none of ours, or `reader` does not fit it.
    """
    name = encoder_name(state_dict)
    if depth is None:
        depth = _depth(state_dict, reader or "", name, options)
    first = next((key for key in _FIRST_WEIGHTS if key in state_dict), "")
    return {
        "encoder_name": name,
        "encoder_weights": None,
        "encoder_depth": depth,
        "in_channels": size_of(state_dict, first, 1, 3),
    }


def _depth(state_dict: StateDict, reader: str, name: str, options: dict[str, Any]) -> int:
    """Halvings of the encoder, by the channels of the last features."""
    with torch.device("meta"):
        widths = make_encoder(name, **options).out_channels
    channels = size_of(state_dict, reader, 1, widths[-1])
    if channels not in widths[3:]:
        raise ValueError(f"{reader} reads {channels} channels, {name} has {widths[3:]}")
    return widths.index(channels, 3)


def stem_options(state_dict: StateDict) -> dict[str, Any]:
    """Options of an encoder that begins with three 3x3 convolutions; else empty."""
    if "encoder.conv1.0.weight" not in state_dict:
        return {}
    stem = [size_of(state_dict, f"encoder.conv1.{index}.weight", 0, 64) for index in (0, 3, 6)]
    return {"stem_channels": stem}


def encoder_name(names: Collection[str]) -> str:
    """The key of ENCODERS whose tensors have these names.

    Raises:
        ValueError: there is none.
    """
    inner = {name.removeprefix("encoder.") for name in names if name.startswith("encoder.")}
    for recognised in (_mobilenet_v2, _resnet, _vgg):
        if name := recognised(inner):
            return name
    raise ValueError(f"its encoder is none of {', '.join(ENCODERS)}")


def _mobilenet_v2(names: Collection[str]) -> str | None:
    return "mobilenet_v2" if any(name.startswith("features.0.0.") for name in names) else None


def _resnet(names: Collection[str]) -> str | None:
    counts = [
        len({name.split(".")[1] for name in names if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    built = tuple(count for count in counts if count > 0)
    variants = _BOTTLENECK if any(n.startswith("layer1.0.conv3.") for n in names) else _BASIC
    for name, expected in variants.items():
        if built and built == expected[: len(built)]:
            return name
    return None


def _vgg(names: Collection[str]) -> str | None:
    """By which of its layers are convolutions."""
    kinds = {name.rpartition(".") for name in names if name.startswith("features.")}
    built = {layer for layer, _, kind in kinds if kind == "weight"}
    norm = any(kind == "running_mean" for _, _, kind in kinds)
    for name in VGG_COUNTS:
        with torch.device("meta"):
            whole: Any = make_encoder(name + ("_bn" if norm else ""))
        layers = [f"features.{i}" for i, m in enumerate(whole.features) if list(m.parameters())]
        if built and built == set(layers[: len(built)]):
            return name + ("_bn" if norm else "")
    return None


def size_of(state_dict: StateDict, key: str, axis: int, default: Any) -> Any:
    """A tensor's size along an axis, or `default` if the tensor is missing.

    That it is missing is reported, with its name, when the model is filled.
    """
    return state_dict[key].shape[axis] if key in state_dict else default


def count_of(state_dict: StateDict, prefix: str) -> int:
    """How many different names follow a prefix, as those of an nn.ModuleList's modules."""
    return len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)})
