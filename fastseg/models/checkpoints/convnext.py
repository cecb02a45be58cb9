"""The names of a ConvNeXt's tensors in transformers and mmsegmentation, and timm's, which are ours.

The library's prefix of the encoder has become ours, "encoder.", before.
"""

from __future__ import annotations

import re
from typing import Any

from ..files import StateDict
from .encoders import count_of, size_of

# Depths and channels of the four stages. Source: Liu et al., A ConvNet for the 2020s, 2022.
VARIANTS = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
}
# Epsilon of the norms of the features, in both libraries.
EPSILON = 1e-6
_STEM = "encoder.model.stem_0.weight"
_TRANSFORMERS = {
    "dwconv.weight": "conv_dw.weight",
    "dwconv.bias": "conv_dw.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "pwconv1.weight": "mlp.fc1.weight",
    "pwconv1.bias": "mlp.fc1.bias",
    "pwconv2.weight": "mlp.fc2.weight",
    "pwconv2.bias": "mlp.fc2.bias",
    "layer_scale_parameter": "gamma",
}
_MMSEG = {
    "depthwise_conv.weight": "conv_dw.weight",
    "depthwise_conv.bias": "conv_dw.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "pointwise_conv1.weight": "mlp.fc1.weight",
    "pointwise_conv1.bias": "mlp.fc1.bias",
    "pointwise_conv2.weight": "mlp.fc2.weight",
    "pointwise_conv2.bias": "mlp.fc2.bias",
    "gamma": "gamma",
}


def is_transformers(state_dict: StateDict) -> bool:
    """Whether the encoder is transformers' ConvNextBackbone."""
    return "encoder.encoder.stages.0.layers.0.dwconv.weight" in state_dict


def is_mmseg(state_dict: StateDict) -> bool:
    """Whether the encoder is mmpretrain's ConvNeXt."""
    return "encoder.downsample_layers.0.0.weight" in state_dict


def from_transformers(state_dict: StateDict) -> StateDict:
    """Tensors of transformers' ConvNextBackbone as ours; others keep their names."""
    result: StateDict = {}
    for key, value in state_dict.items():
        name = key
        if found := re.fullmatch(r"encoder\.embeddings\.(patch_embeddings|layernorm)\.(\w+)", key):
            name = f"encoder.model.stem_{int(found[1] == 'layernorm')}.{found[2]}"
        elif found := re.fullmatch(
            r"encoder\.encoder\.stages\.(\d+)\.downsampling_layer\.([01])\.(\w+)", key
        ):
            name = f"encoder.model.stages_{found[1]}.downsample.{found[2]}.{found[3]}"
        elif found := re.fullmatch(r"encoder\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(.+)", key):
            if found[3] in _TRANSFORMERS:
                inner = _TRANSFORMERS[found[3]]
                name = f"encoder.model.stages_{found[1]}.blocks.{found[2]}.{inner}"
        elif found := re.fullmatch(r"encoder\.hidden_states_norms\.stage([1-9])\.(\w+)", key):
            name = f"encoder.norms.{int(found[1]) - 1}.{found[2]}"
        result[name] = value
    return result


def to_transformers(state_dict: StateDict) -> StateDict:
    """The reverse of `from_transformers`."""
    theirs = {ours: name for name, ours in _TRANSFORMERS.items()}
    result: StateDict = {}
    for key, value in state_dict.items():
        name = key
        if found := re.fullmatch(r"encoder\.model\.stem_([01])\.(\w+)", key):
            part = ("patch_embeddings", "layernorm")[int(found[1])]
            name = f"encoder.embeddings.{part}.{found[2]}"
        elif found := re.fullmatch(r"encoder\.model\.stages_(\d+)\.downsample\.(.+)", key):
            name = f"encoder.encoder.stages.{found[1]}.downsampling_layer.{found[2]}"
        elif found := re.fullmatch(r"encoder\.model\.stages_(\d+)\.blocks\.(\d+)\.(.+)", key):
            stage = f"encoder.encoder.stages.{found[1]}"
            name = f"{stage}.layers.{found[2]}.{theirs[found[3]]}"
        elif found := re.fullmatch(r"encoder\.norms\.(\d+)\.(\w+)", key):
            name = f"encoder.hidden_states_norms.stage{int(found[1]) + 1}.{found[2]}"
        result[name] = value
    return result


def from_mmseg(state_dict: StateDict) -> StateDict:
    """Tensors of mmpretrain's ConvNeXt as ours; others keep their names."""
    result: StateDict = {}
    for key, value in state_dict.items():
        name = key
        if found := re.fullmatch(r"encoder\.downsample_layers\.(\d+)\.([01])\.(\w+)", key):
            name = f"encoder.model.stages_{found[1]}.downsample.{found[2]}.{found[3]}"
            if found[1] == "0":
                name = f"encoder.model.stem_{found[2]}.{found[3]}"
        elif found := re.fullmatch(r"encoder\.stages\.(\d+)\.(\d+)\.(.+)", key):
            if found[3] in _MMSEG:
                inner = _MMSEG[found[3]]
                name = f"encoder.model.stages_{found[1]}.blocks.{found[2]}.{inner}"
                # 1x1 convolutions are linear layers.
                value = value.flatten(1) if ".mlp." in name and value.dim() == 4 else value
        elif found := re.fullmatch(r"encoder\.norm(\d)\.(\w+)", key):
            name = f"encoder.norms.{found[1]}.{found[2]}"
        result[name] = value
    return result


def arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments about the encoder, where it is a ConvNeXt; none where it is another."""
    if _STEM not in state_dict:
        return {}
    stages = range(4)
    depths = tuple(count_of(state_dict, f"encoder.model.stages_{i}.blocks.") for i in stages)
    widths = [size_of(state_dict, _STEM, 0, 96)]
    widths += [
        size_of(state_dict, f"encoder.model.stages_{i}.downsample.1.weight", 0, 96 << i)
        for i in stages[1:]
    ]
    return {
        **variant(depths, tuple(widths)),
        "in_channels": size_of(state_dict, _STEM, 1, 3),
    }


def variant(depths: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, Any]:
    """The encoder's name and options of a ConvNeXt whose features are normed."""
    options: dict[str, Any] = {"feature_norm_eps": EPSILON}
    for name, known in VARIANTS.items():
        if known == (depths, widths):
            return {"encoder_name": f"tu-{name}", "encoder_options": options}
    options |= {"depths": depths, "dims": widths}
    return {"encoder_name": "tu-convnext_tiny", "encoder_options": options}
