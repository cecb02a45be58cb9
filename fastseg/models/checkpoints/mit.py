"""The names of SegFormer's tensors in transformers and mmsegmentation, and ours (which are smp's).

transformers saves the names of its version 4; version 5 has others in memory. Both are read, and
the former written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ..files import StateDict

# Of a stage of transformers: version 4 (after "segformer.encoder.") -> ours, {i} counted from 0.
_V4 = {
    "patch_embeddings.{i}.proj.": "patch_embed{n}.proj.",
    "patch_embeddings.{i}.layer_norm.": "patch_embed{n}.norm.",
    "layer_norm.{i}.": "norm{n}.",
}
# Version 5, after "segformer.stages.{i}.".
_V5 = {
    "patch_embeddings.proj.": "patch_embed{n}.proj.",
    "patch_embeddings.layer_norm.": "patch_embed{n}.norm.",
    "layer_norm.": "norm{n}.",
}
# Of a block.
_V4_BLOCK = {
    "layer_norm_1.": "norm1.",
    "attention.self.query.": "attn.q.",
    "attention.self.key.": "attn.k.",
    "attention.self.value.": "attn.v.",
    "attention.self.sr.": "attn.sr.",
    "attention.self.layer_norm.": "attn.norm.",
    "attention.output.dense.": "attn.proj.",
    "layer_norm_2.": "norm2.",
    "mlp.dense1.": "mlp.fc1.",
    "mlp.dwconv.dwconv.": "mlp.dwconv.dwconv.",
    "mlp.dense2.": "mlp.fc2.",
}
_V5_BLOCK = {
    "layernorm_before.": "norm1.",
    "attention.q_proj.": "attn.q.",
    "attention.k_proj.": "attn.k.",
    "attention.v_proj.": "attn.v.",
    "attention.sequence_reduction.sequence_reduction.": "attn.sr.",
    "attention.sequence_reduction.layer_norm.": "attn.norm.",
    "attention.o_proj.": "attn.proj.",
    "layernorm_after.": "norm2.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.dwconv.dwconv.": "mlp.dwconv.dwconv.",
    "mlp.fc2.": "mlp.fc2.",
}
_HEAD = {
    "decode_head.linear_fuse.": "decoder.fuse_stage.0.",
    "decode_head.batch_norm.": "decoder.fuse_stage.1.",
    "decode_head.classifier.": "segmentation_head.0.",
}
_STAGES = 4  # of transformers' networks


def from_transformers(state_dict: StateDict) -> StateDict:
    """Tensors of SegformerForSemanticSegmentation, in the names of version 4 or 5, as ours.

    Unknown ones keep their names.
    """
    return joined({_our_name(key): value for key, value in state_dict.items()})


def _our_name(key: str) -> str:
    if found := re.match(r"segformer\.encoder\.block\.(\d+)\.(\d+)\.(.*)$", key):
        return _in_block(found, _V4_BLOCK, key)
    if found := re.match(r"segformer\.stages\.(\d+)\.blocks\.(\d+)\.(.*)$", key):
        return _in_block(found, _V5_BLOCK, key)
    if found := re.match(r"segformer\.(?:encoder\.\w+|stages)\.(\d+)\.", key):
        number = int(found[1])
        prefix = f"segformer.stages.{number}."
        version = {prefix + k: v for k, v in _V5.items()}
        version |= {"segformer.encoder." + k.format(i=number): v for k, v in _V4.items()}
        for theirs, ours in version.items():
            if key.startswith(theirs):
                return f"encoder.{ours.format(n=number + 1)}{key[len(theirs) :]}"
    if found := re.match(r"decode_head\.linear_(?:c|projections)\.(\d)\.proj\.(\w+)$", key):
        return f"decoder.mlp_stage.{_STAGES - 1 - int(found[1])}.linear.{found[2]}"
    for theirs, ours in _HEAD.items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key


def _in_block(found: re.Match[str], parts: Mapping[str, str], key: str) -> str:
    prefix = f"encoder.block{int(found[1]) + 1}.{found[2]}."
    return _prefixed(prefix, found[3], parts) or key


def joined(state_dict: StateDict) -> StateDict:
    """Keys and values that are layers of their own as one, "kv", as smp has them."""
    result: StateDict = {}
    for key, value in state_dict.items():
        found = re.match(r"(encoder\.block\d\.\d+\.attn\.)([kv])(\.\w+)$", key)
        if found is None:
            result[key] = value
            continue
        both = [f"{found[1]}{name}{found[3]}" for name in "kv"]
        if all(name in state_dict for name in both):
            result[f"{found[1]}kv{found[3]}"] = torch.cat([state_dict[name] for name in both])
        else:
            result[key] = value
    return result


def to_transformers(state_dict: Mapping[str, torch.Tensor]) -> StateDict:
    """Our tensors of a SegFormer in the names that transformers saves.

    Raises:
        ValueError: a tensor that its SegFormer does not have.
    """
    result: StateDict = {}
    for key, value in state_dict.items():
        if found := re.match(r"encoder\.block(\d)\.(\d+)\.(.*)$", key):
            prefix = f"segformer.encoder.block.{int(found[1]) - 1}.{found[2]}."
            if (kind := found[3].removeprefix("attn.kv.")) != found[3]:
                for part, name in zip(value.chunk(2), ("key", "value"), strict=True):
                    result[f"{prefix}attention.self.{name}.{kind}"] = part
            else:
                result[prefix + _renamed(found[3], _V4_BLOCK)] = value
        elif found := re.match(r"encoder\.[a-z_]+(\d)\.", key):
            number = int(found[1])
            names = {k.format(i=number - 1): v.format(n=number) for k, v in _V4.items()}
            result["segformer.encoder." + _renamed(key.removeprefix("encoder."), names)] = value
        elif found := re.match(r"decoder\.mlp_stage\.(\d)\.linear\.(\w+)$", key):
            result[f"decode_head.linear_c.{_STAGES - 1 - int(found[1])}.proj.{found[2]}"] = value
        else:
            result[_renamed(key, _HEAD)] = value
    return result


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        if key.startswith(ours):
            return theirs + key[len(ours) :]
    raise ValueError(f"transformers' SegFormer has no tensor like {key}")


# mmsegmentation, after "backbone.layers.{i}.".
_MMSEG = {
    "0.projection.": "patch_embed{n}.proj.",
    "0.norm.": "patch_embed{n}.norm.",
    "2.": "norm{n}.",
}
_MMSEG_BLOCK = {
    "norm1.": "norm1.",
    "attn.attn.out_proj.": "attn.proj.",
    "attn.sr.": "attn.sr.",
    "attn.norm.": "attn.norm.",
    "norm2.": "norm2.",
    "ffn.layers.0.": "mlp.fc1.",
    "ffn.layers.1.": "mlp.dwconv.dwconv.",
    "ffn.layers.4.": "mlp.fc2.",
}


def from_mmseg(state_dict: StateDict) -> StateDict:
    """Tensors of mmsegmentation's MixVisionTransformer, under "backbone.", as ours."""
    result: StateDict = {}
    for key, value in state_dict.items():
        found = re.match(r"backbone\.layers\.(\d)\.(?:1\.(\d+)\.)?(.*)$", key)
        if found is None:
            result[key] = value
            continue
        number, block, rest = int(found[1]) + 1, found[2], found[3]
        if block is None:
            names = {k: v.format(n=number) for k, v in _MMSEG.items()}
            result[_prefixed("encoder.", rest, names) or key] = value
            continue
        prefix = f"encoder.block{number}.{block}."
        if (kind := rest.removeprefix("attn.attn.in_proj_")) != rest:  # queries, keys, values
            third = value.shape[0] // 3
            result[f"{prefix}attn.q.{kind}"] = value[:third]
            result[f"{prefix}attn.kv.{kind}"] = value[third:]
        else:
            name = _prefixed(prefix, rest, _MMSEG_BLOCK) or key
            is_linear = re.search(r"mlp\.fc\d\.weight$", name) and value.dim() == 4
            result[name] = value.flatten(1) if is_linear else value
    return result


def _prefixed(prefix: str, key: str, names: Mapping[str, str]) -> str | None:
    for theirs, ours in names.items():
        if key.startswith(theirs):
            return prefix + ours + key[len(theirs) :]
    return None
