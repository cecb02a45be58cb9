"""Weights of Segment Anything as the official code and transformers save them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .._json import read_json
from .._schema import ANYTHING, Array, Integer, Record
from ..models.tensor_files import read_tensors
from .model import SAM, SIZES

# transformers' names -> the official ones, in this order.
_NAMES = (
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.", "image_encoder."),
    (
        r"^prompt_encoder\.shared_embedding\.positional_embedding$",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(mask_decoder\.transformer\..*)layer_norm_final_attn\.", r"\1norm_final_attn."),
    (r"^(mask_decoder\.transformer\..*)layer_norm(\d)\.", r"\1norm\2."),
)
# What the tensors do not tell, in transformers' config.json.
_CONFIG = Record(
    {},
    {
        "vision_config": Record({}, {"global_attn_indexes": Array(Integer(0, 4095))}, ANYTHING),
        "mask_decoder_config": Record({}, {"num_attention_heads": Integer(1, 4096)}, ANYTHING),
    },
    ANYTHING,
)
# The same tensor under two names; a file may hold one of them.
_PLACES = "prompt_encoder.shared_embedding.positional_embedding"
_PLACES_OF_IMAGE = "shared_image_embedding.positional_embedding"


def load_sam(path: str | os.PathLike[str], size: str | None = None) -> SAM:
    """Makes a model from an official checkpoint, or from a folder or file of transformers.

    Args:
        path: a .pth or .safetensors file, or a folder with model.safetensors and config.json.
        size: "vit_b", "vit_l" or "vit_h"; None: what the tensors say.

    Returns:
        The model in eval mode; every tensor of the file is in it, and it has no other.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no checkpoint of Segment Anything, or of another size.
    """
    given = Path(path)
    config: Mapping[str, Any] = {}
    if given.is_dir():
        config = read_json(given / "config.json", _CONFIG)
        given = given / "model.safetensors"
    tensors = read_tensors(given)
    if isinstance(tensors, dict) and "model" in tensors and isinstance(tensors["model"], dict):
        tensors = tensors["model"]
    if not isinstance(tensors, dict):
        raise ValueError(f"{given}: holds no tensors by name")
    return from_state_dict(tensors, size, str(given), config)


def _builder(size: str) -> Callable[..., SAM]:
    def build(checkpoint: str | os.PathLike[str] | None = None) -> SAM:
        return SAM(size).eval() if checkpoint is None else load_sam(checkpoint, size)

    return build


# As the official code: sam_model_registry["vit_b"](checkpoint="sam_vit_b_01ec64.pth").
sam_model_registry: dict[str, Callable[..., SAM]] = {
    "default": _builder("vit_h"),
    **{size: _builder(size) for size in ("vit_b", "vit_l", "vit_h")},
}


def from_state_dict(
    tensors: Mapping[str, torch.Tensor],
    size: str | None = None,
    origin: str = "state_dict",
    config: Mapping[str, Any] | None = None,
) -> SAM:
    """A model in eval mode with these tensors, of official or of transformers' names."""
    if size is not None and size not in SIZES:
        raise ValueError(f"size is {size!r}, allowed are {', '.join(map(repr, SIZES))}")
    theirs = any(key.startswith("vision_encoder.") for key in tensors)
    named = official_names(tensors) if theirs else dict(tensors)
    try:
        encoder, prompts, decoder = _options(named, config or {})
    except KeyError as error:
        raise ValueError(f"{origin}: no Segment Anything, {error.args[0]} is missing") from None
    if theirs:
        decoder["norm_eps"] = 1e-6
    if size is not None and SIZES[size]["channels"] != encoder["channels"]:
        raise ValueError(
            f"{origin}: an encoder of {encoder['channels']} channels, but size is {size!r}"
        )
    with torch.device("meta"):
        model = SAM(size or "vit_b", encoder, prompts, decoder)
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - named), sorted(named.keys() - expected)
    wrong = sorted(k for k in expected.keys() & named if expected[k].shape != named[k].shape)
    for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", wrong)):
        if keys:
            raise ValueError(f"{origin}: {len(keys)} tensors are {what}, such as {keys[0]}")
    model = SAM(size or "vit_b", encoder, prompts, decoder)
    model.load_state_dict(named)
    return model.eval()


def official_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of transformers' SamModel by the official names."""
    named = {}
    for key, value in tensors.items():
        if key == _PLACES_OF_IMAGE:
            if _PLACES in tensors:
                continue
            key = _PLACES
        named[_in_mlp(_official(key), tensors)] = value
    return named


def _official(key: str) -> str:
    for pattern, name in _NAMES:
        renamed, found = re.subn(pattern, name, key)
        if found:
            return renamed
    return key


def _in_mlp(key: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """proj_in, layers.i and proj_out of an MLP of tokens, numbered through."""
    found = re.match(r"^(mask_decoder\.(?:output_hyper.*?mlps\.\d+|iou_prediction_head))\.", key)
    if not found:
        return key
    start, rest = found.group(1), key[found.end() :]
    middle = {k for k in tensors if re.match(re.escape(start) + r"\.layers\.\d+\.weight$", k)}
    if rest.startswith("proj_in."):
        return f"{start}.layers.0.{rest.removeprefix('proj_in.')}"
    if rest.startswith("proj_out."):
        return f"{start}.layers.{len(middle) + 1}.{rest.removeprefix('proj_out.')}"
    number, last = re.match(r"layers\.(\d+)\.(.*)", rest).groups()  # type: ignore[union-attr]
    return f"{start}.layers.{int(number) + 1}.{last}"


def _options(
    named: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Options of the three parts that the shapes of the tensors give."""
    position = named["image_encoder.pos_embed"]
    patches = named["image_encoder.patch_embed.proj.weight"]
    channels, patch = patches.shape[0], patches.shape[2]
    tables = {
        int(key.split(".")[2]): x.shape
        for key, x in named.items()
        if re.match(r"image_encoder\.blocks\.\d+\.attn\.rel_pos_h$", key)
    }
    side = position.shape[1]
    whole = tuple(i for i, shape in sorted(tables.items()) if shape[0] == 2 * side - 1)
    windows = [(shape[0] + 1) // 2 for i, shape in tables.items() if i not in whole]
    head_width = named["image_encoder.blocks.0.attn.rel_pos_h"].shape[1]
    hidden = named["image_encoder.blocks.0.mlp.lin1.weight"].shape[0]
    whole = tuple(config.get("vision_config", {}).get("global_attn_indexes", whole))
    encoder = {
        "image_size": side * patch,
        "patch": patch,
        "in_channels": patches.shape[1],
        "channels": channels,
        "depth": len(tables),
        "heads": channels // head_width,
        "global_layers": whole,
        "window": windows[0] if windows else 14,
        "expansion": hidden / channels,
        "out_channels": named["image_encoder.neck.0.weight"].shape[0],
    }
    start = "mask_decoder."
    iou = [k for k in named if re.match(start + r"iou_prediction_head\.layers\.\d+\.weight$", k)]
    layers = [k for k in named if re.match(start + r"transformer\.layers\.\d+\.norm1\.weight$", k)]
    heads = config.get("mask_decoder_config", {}).get("num_attention_heads", 8)
    decoder = {
        "channels": named[start + "iou_token.weight"].shape[1],
        "depth": len(layers),
        "heads": heads,
        "hidden": named[start + "transformer.layers.0.mlp.lin1.weight"].shape[0],
        "masks": named[start + "mask_tokens.weight"].shape[0] - 1,
        "iou_depth": len(iou),
        "iou_hidden": named[start + "iou_prediction_head.layers.0.weight"].shape[0],
    }
    prompts = {"mask_channels": named["prompt_encoder.mask_downscaling.3.weight"].shape[0]}
    return encoder, prompts, decoder
