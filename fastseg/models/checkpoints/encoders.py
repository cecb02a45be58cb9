"""Which encoder a state dict holds, read off the names and shapes of its tensors."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from ..encoders import ENCODERS, MIT_VARIANTS, SWIN_VARIANTS, make_encoder
from ..encoders.timm_encoder import PREFIX
from ..encoders.vgg import VGG_COUNTS
from ..files import StateDict

# Blocks of the four stages. Where the stages that are present fit several, the first is taken: it
# has the same values as the others.
_BASIC = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
_BOTTLENECK = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}

# Encoders that smp has and fastseg has not: how a tensor's name begins, and timm's network.
_SMPS = {
    "_conv_stem.": ("EfficientNet", "tu-efficientnet_b0"),
    "features.denseblock1.": ("DenseNet", "tu-densenet121"),
    "layer0.conv1.": ("SENet", "tu-senet154"),
}


def encoder_arguments(
    state_dict: StateDict, reader: str | None = None, depth: int | None = None
) -> dict[str, Any]:
    """The arguments about the encoder, which every model with one takes.

    Args:
        reader: name of a weight that reads the encoder's last features.
        depth: halvings of the encoder, where the model tells it without a reader.

    Raises:
        ValueError: the encoder is none of ours, or `reader` does not fit it.
    """
    name, options = encoder_of(state_dict)
    if depth is None and name != PREFIX:
        depth = _depth(state_dict, reader or "", name, options)
    return {
        "encoder_name": name,
        "encoder_weights": None,
        **({} if depth is None else {"encoder_depth": depth}),
        **_in_channels(state_dict, name, options),
        "encoder_options": options,
    }


def _in_channels(state_dict: StateDict, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Of the image, as the encoder's first convolution has them; the caller says those of timm's.

    Files may hold their tensors in any order.
    """
    if name == PREFIX:
        return {}
    with torch.device("meta"):
        tensors = make_encoder(name, **options).state_dict()
    first = next(key for key, value in tensors.items() if value.dim() == 4)
    return {"in_channels": size_of(state_dict, f"encoder.{first}", 1, 3)}


def _depth(state_dict: StateDict, reader: str, name: str, options: dict[str, Any]) -> int:
    """Halvings of the encoder, by the channels of the last features."""
    with torch.device("meta"):
        widths = make_encoder(name, **options).out_channels
    channels = size_of(state_dict, reader, 1, widths[-1])
    if channels not in widths[3:]:
        raise ValueError(f"{reader} reads {channels} channels, {name} has {widths[3:]}")
    depths = [depth for depth in range(3, len(widths)) if widths[depth] == channels]
    built = [depth for depth in depths if _is_built(state_dict, name, depth, options)]
    if len(built) > 1:
        warnings.warn(
            f"the features of {name} have {channels} channels after {', '.join(map(str, built))} "
            f"halvings: {built[0]} are taken; pass encoder_depth if they are others",
            stacklevel=2,
        )
    return (built or depths)[0]


def deepest(state_dict: StateDict, reader: str) -> int | None:
    """The most halvings of an encoder that has all of its tensors, by what reads its last features.

    None if there are none, or if nothing tells the encoder.
    """
    name, options = encoder_of(state_dict)
    if name == PREFIX:
        return None
    with torch.device("meta"):
        widths = make_encoder(name, **options).out_channels
    channels = size_of(state_dict, reader, 1, widths[-1])
    depths = (depth for depth in range(len(widths) - 1, 2, -1) if widths[depth] == channels)
    return next((d for d in depths if _is_built(state_dict, name, d, options)), None)


def _is_built(state_dict: StateDict, name: str, depth: int, options: dict[str, Any]) -> bool:
    """Whether a state dict has all tensors of an encoder of this depth."""
    with torch.device("meta"):
        names = make_encoder(name, depth=depth, **options).state_dict()
    return all(f"encoder.{key}" in state_dict for key in names)


def has_stride_2(state_dict: StateDict) -> bool:
    """Whether the encoder of a state dict has features at stride 2; of timm's, it is a guess.

    Raises:
        ValueError: the encoder is none of ours.
    """
    name, options = encoder_of(state_dict)
    if name == PREFIX:
        return True
    with torch.device("meta"):
        return make_encoder(name, **options).out_channels[1] > 0


def encoder_of(state_dict: StateDict) -> tuple[str, dict[str, Any]]:
    """The key of ENCODERS whose tensors these are, and the encoder's options.

    Raises:
        ValueError: there is none.
    """
    prefix = "encoder."
    inner = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if any(key.startswith("model.") for key in inner):
        return PREFIX, {}  # one of timm's: the caller says which
    for recognised in (_mobilenet_v3, _mobilenet_v2, _resnet, _vgg, _mit, _swin):
        if found := recognised(inner):
            return found
    known = ", ".join(ENCODERS)
    for start, (kind, timms) in _SMPS.items():
        if any(key.startswith(start) for key in inner):
            raise ValueError(
                f"its encoder is smp's {kind}, none of {known}; timm's is here as {timms!r}, with "
                "tensors of other names"
            )
    raise ValueError(f"its encoder is none of {known}")


Found = tuple[str, dict[str, Any]] | None


def _mobilenet_v3(inner: StateDict) -> Found:
    found = any(key.startswith("features.1.block.") for key in inner)
    return ("mobilenet_v3_large", {}) if found else None


def _mobilenet_v2(inner: StateDict) -> Found:
    return ("mobilenet_v2", {}) if any(k.startswith("features.0.0.") for k in inner) else None


def _resnet(inner: StateDict) -> Found:
    built = _blocks(inner, "layer{}.")
    variants = _BOTTLENECK if any(k.startswith("layer1.0.conv3.") for k in inner) else _BASIC
    for name, expected in variants.items():
        if built and built == expected[: len(built)]:
            if "conv1.0.weight" not in inner:
                return name, {}
            stem = [size_of(inner, f"conv1.{index}.weight", 0, 64) for index in (0, 3, 6)]
            return name, {"stem_channels": stem}
    return None


def _vgg(inner: StateDict) -> Found:
    """By which of its layers are convolutions."""
    kinds = {name.rpartition(".") for name in inner if name.startswith("features.")}
    built = {layer for layer, _, kind in kinds if kind == "weight"}
    norm = any(kind == "running_mean" for _, _, kind in kinds)
    for name in VGG_COUNTS:
        with torch.device("meta"):
            whole: Any = make_encoder(name + ("_bn" if norm else ""))
        layers = [f"features.{i}" for i, m in enumerate(whole.features) if list(m.parameters())]
        if built and built == set(layers[: len(built)]):
            return name + ("_bn" if norm else ""), {}
    return None


def _mit(inner: StateDict) -> Found:
    """One of the paper's, or mit_b0 with the widths and depths that the tensors have.

    Heads are in no tensor: their width is that of the first stage, as in the paper.
    """
    depths = _blocks(inner, "block{}.")
    if not depths or "patch_embed1.proj.weight" not in inner:
        return None
    widths = [size_of(inner, f"patch_embed{i + 1}.proj.weight", 0, 0) for i in range(len(depths))]
    reductions = [
        size_of(inner, f"block{i + 1}.0.attn.sr.weight", 2, 1) for i in range(len(depths))
    ]
    expansions = [
        size_of(inner, f"block{i + 1}.0.mlp.fc1.weight", 0, 4 * width) // max(width, 1)
        for i, width in enumerate(widths)
    ]
    usual = reductions == [8, 4, 2, 1][: len(depths)] and set(expansions) == {4}
    for name, (known_depths, known_widths) in MIT_VARIANTS.items():
        built = slice(len(depths))
        if usual and depths == known_depths[built] and tuple(widths) == known_widths[built]:
            return name, {}
    more = [1] * (4 - len(depths))  # stages that are not built
    options = {
        "depths": [*depths, *more],
        "widths": [*widths, *more],
        "reductions": [*reductions, *more],
        "expansions": [*expansions, *more],
        "heads": [*(width // widths[0] if widths[0] else 1 for width in widths), *more],
    }
    return "mit_b0", options


def _swin(inner: StateDict) -> Found:
    """One of the paper's, or swin_t with what the tensors have."""
    stages = count_of(inner, "layers.")
    table = "layers.{}.blocks.0.attn.relative_position_bias_table"
    if stages == 0 or table.format(0) not in inner:
        return None
    width = size_of(inner, "patch_embed.proj.weight", 0, 96)
    depths = tuple(count_of(inner, f"layers.{i}.blocks.") for i in range(stages))
    heads = tuple(size_of(inner, table.format(i), 1, 1) for i in range(stages))
    window = (math.isqrt(size_of(inner, table.format(0), 0, 169)) + 1) // 2
    expansion = size_of(inner, "layers.0.blocks.0.mlp.fc1.weight", 0, 4 * width) / max(width, 1)
    more = {"window": window} if window != 7 else {}
    if expansion != 4:
        more["expansion"] = expansion
    for name, (known_width, known_depths, known_heads) in SWIN_VARIANTS.items():
        known = (known_width, known_depths[:stages], known_heads[:stages])
        if known == (width, depths, heads):
            return name, more
    rest = (1,) * (4 - stages)  # stages that are not built
    return "swin_t", {"width": width, "depths": depths + rest, "heads": heads + rest, **more}


def _blocks(inner: StateDict, stage: str) -> tuple[int, ...]:
    """How many blocks each stage has that is there; `stage` is the prefix of stage {}."""
    counts = [count_of(inner, stage.format(number)) for number in (1, 2, 3, 4)]
    return tuple(count for count in counts if count > 0)


def size_of(state_dict: StateDict, key: str, axis: int, default: Any) -> Any:
    """A tensor's size along an axis, or `default` if the tensor is missing.

    That it is missing is reported, with its name, when the model is filled.
    """
    return state_dict[key].shape[axis] if key in state_dict else default


def count_of(state_dict: StateDict, prefix: str) -> int:
    """How many different names follow a prefix, as those of an nn.ModuleList's modules."""
    return len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)})
