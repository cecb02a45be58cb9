"""The names of a Swin's tensors in transformers and mmsegmentation, and ours (the first code's).

The library's prefix of the encoder has become ours, "encoder.", before.
"""

from __future__ import annotations

import re

import torch

from ..files import StateDict

# transformers, versions 4 and 5, inside a block.
_TRANSFORMERS_BLOCK = {
    "layernorm_before.": "norm1.",
    "attention.self.query.": "attn.q.",
    "attention.self.key.": "attn.k.",
    "attention.self.value.": "attn.v.",
    "attention.q_proj.": "attn.q.",
    "attention.k_proj.": "attn.k.",
    "attention.v_proj.": "attn.v.",
    "attention.self.relative_position_": "attn.relative_position_",
    "attention.relative_position_bias.relative_position_": "attn.relative_position_",
    "attention.output.dense.": "attn.proj.",
    "attention.o_proj.": "attn.proj.",
    "layernorm_after.": "norm2.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
}
_TRANSFORMERS = {
    "encoder.embeddings.patch_embeddings.projection.": "encoder.patch_embed.proj.",
    "encoder.embeddings.norm.": "encoder.patch_embed.norm.",
    "encoder.encoder.layers.": "encoder.layers.",
    **{f"encoder.hidden_states_norms.stage{i + 1}.": f"encoder.norm{i}." for i in range(4)},
    "encoder.layernorm.": "encoder.norm.",
}
# mmsegmentation, inside a block.
_MMSEG_BLOCK = {
    "attn.w_msa.": "attn.",
    "ffn.layers.0.0.": "mlp.fc1.",
    "ffn.layers.1.": "mlp.fc2.",
}
_MMSEG = {
    "encoder.patch_embed.projection.": "encoder.patch_embed.proj.",
    "encoder.stages.": "encoder.layers.",
}


def from_transformers(state_dict: StateDict) -> StateDict:
    """Tensors of transformers' SwinBackbone as ours; others keep their names."""
    named = {
        _in_block(_renamed(key, _TRANSFORMERS), _TRANSFORMERS_BLOCK): value
        for key, value in state_dict.items()
    }
    result: StateDict = {}
    for key, value in named.items():
        found = re.match(r"(encoder\.layers\.\d+\.blocks\.\d+\.attn\.)([qkv])(\.\w+)$", key)
        parts = [f"{found[1]}{name}{found[3]}" for name in "qkv"] if found else []
        if found and all(part in named for part in parts):
            result[f"{found[1]}qkv{found[3]}"] = torch.cat([named[part] for part in parts])
        else:
            result[key] = value
    return result


def to_transformers(state_dict: StateDict) -> StateDict:
    """The reverse of `from_transformers`, in the names that transformers saves."""
    block = {ours: theirs for theirs, ours in reversed(_TRANSFORMERS_BLOCK.items())}
    outside = {ours: theirs for theirs, ours in _TRANSFORMERS.items()}
    result: StateDict = {}
    for key, value in state_dict.items():
        found = re.fullmatch(r"(encoder\.layers\.\d+\.blocks\.\d+\.attn\.)qkv(\.\w+)", key)
        parts = {f"{found[1]}{name}{found[2]}": name for name in "qkv"} if found else {key: ""}
        values = value.chunk(3) if found else (value,)
        for name, part in zip(parts, values, strict=True):
            inside = _in_block(name, block)
            result[_renamed(inside, outside)] = part.contiguous()
    return result


def from_mmseg(state_dict: StateDict) -> StateDict:
    """Tensors of mmsegmentation's SwinTransformer as ours; others keep their names.

    It puts the four neighbours that are merged side by side for each channel, and the rows before
    the columns.
    """
    result: StateDict = {}
    for key, value in state_dict.items():
        name = _in_block(_renamed(key, _MMSEG), _MMSEG_BLOCK)
        if re.match(r"encoder\.stages\.\d+\.downsample\.(?:reduction\.weight|norm\.)", key):
            groups = value.unflatten(-1, (-1, 4))[..., [0, 2, 1, 3]]
            value = groups.transpose(-1, -2).flatten(-2)
        result[name] = value
    return result


def _renamed(key: str, names: dict[str, str]) -> str:
    prefix = next((p for p in names if key.startswith(p)), None)
    return key if prefix is None else names[prefix] + key[len(prefix) :]


def _in_block(key: str, names: dict[str, str]) -> str:
    found = re.match(r"(encoder\.layers\.\d+\.blocks\.\d+\.)(.*)$", key)
    return key if found is None else found[1] + _renamed(found[2], names)
