"""config.json of transformers' SegformerForSemanticSegmentation, as arguments of our SegFormer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._schema import Array, Boolean, Integer, Number, Schema, Text
from .encoders import MIT_VARIANTS

# Option of the encoder -> transformers' name, and its default.
_SHAPE: dict[str, tuple[str, list[int]]] = {
    "depths": ("depths", [2, 2, 2, 2]),
    "widths": ("hidden_sizes", [32, 64, 160, 256]),
    "heads": ("num_attention_heads", [1, 2, 5, 8]),
    "reductions": ("sr_ratios", [8, 4, 2, 1]),
    "expansions": ("mlp_ratios", [4, 4, 4, 4]),
}
_RATES = {"dropout": 0.0, "attention_dropout": 0.0, "drop_path_rate": 0.1}
_SIZES, _RATE, _CHANNELS = Array(Integer(1, 1 << 20), 1, 64), Number(0.0, 1.0), Integer(1, 1 << 20)
FIELDS: dict[str, Schema] = {
    **{theirs: _SIZES for theirs, _ in _SHAPE.values()},
    "num_channels": _CHANNELS,
    "num_encoder_blocks": Integer(1, 64),
    "patch_sizes": _SIZES,
    "strides": _SIZES,
    "hidden_act": Text(),
    "hidden_dropout_prob": _RATE,
    "attention_probs_dropout_prob": _RATE,
    "classifier_dropout_prob": _RATE,
    "drop_path_rate": _RATE,
    "decoder_hidden_size": _CHANNELS,
    "reshape_last_stage": Boolean(),
}


def _usual(encoder: str) -> dict[str, list[int]]:
    """The options in `_SHAPE` of one of the paper's encoders."""
    depths, widths = MIT_VARIANTS[encoder]
    usual = {name: value for name, (_, value) in _SHAPE.items()}
    return {**usual, "depths": list(depths), "widths": list(widths)}


def arguments(origin: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of SegFormer."""
    expected = {
        "num_encoder_blocks": 4,
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "hidden_act": "gelu",
    }
    for name, value in expected.items():
        if given.get(name, value) != value:
            raise ValueError(f"{origin}: {name} is {given[name]}, only {value} is known")
    shape = {name: list(given.get(theirs, usual)) for name, (theirs, usual) in _SHAPE.items()}
    variants = {variant: name for name, variant in MIT_VARIANTS.items()}
    encoder = variants.get((tuple(shape["depths"]), tuple(shape["widths"])), "mit_b0")
    usual = _usual(encoder)
    options: dict[str, Any] = {k: v for k, v in shape.items() if v != usual[k]}
    rates = {
        "dropout": given.get("hidden_dropout_prob", 0.0),
        "attention_dropout": given.get("attention_probs_dropout_prob", 0.0),
        "drop_path_rate": given.get("drop_path_rate", 0.1),
    }
    options |= {name: rate for name, rate in rates.items() if rate != _RATES[name]}
    return {
        "encoder_name": encoder,
        "encoder_weights": None,
        "encoder_depth": 5,
        "decoder_segmentation_channels": given.get("decoder_hidden_size", 256),
        "in_channels": given.get("num_channels", 3),
        "encoder_options": {**options, "norm_eps": 1e-5},
        "decoder_dropout": given.get("classifier_dropout_prob", 0.1),
        "align_corners": False,
    }


def config(model: Any) -> dict[str, Any]:
    """The fields of config.json of SegformerForSemanticSegmentation."""
    given = model._arguments
    options = dict(given["encoder_options"] or {})
    name = given["encoder_name"]
    why_not = None
    if name not in MIT_VARIANTS:
        why_not = f"encoder_name is {name!r}, it has mit_b0 to mit_b5"
    elif given["encoder_depth"] != 5:
        why_not = f"encoder_depth is {given['encoder_depth']}, it has 5"
    elif given["decoder_normed"]:
        why_not = "decoder_normed is True, it has linear layers"
    elif model.align_corners:
        why_not = "align_corners is True, it has False"
    elif options.get("norm_eps") != 1e-5 or options.get("embedding_norm_eps", 1e-5) != 1e-5:
        why_not = "the encoder's norm_eps is not 1e-5, which it always has"
    elif model.classification_head is not None:
        why_not = "aux_params are given, it has no labels of the whole image"
    if why_not is not None:
        raise ValueError(f"this SegFormer is none that transformers has: {why_not}")
    usual = _usual(name)
    shape = {theirs: list(options.get(k, usual[k])) for k, (theirs, _) in _SHAPE.items()}
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        **shape,
        "num_channels": model.in_channels,
        "num_encoder_blocks": 4,
        "patch_sizes": [7, 3, 3, 3],
        "strides": [4, 2, 2, 2],
        "hidden_act": "gelu",
        "hidden_dropout_prob": options.get("dropout", 0.0),
        "attention_probs_dropout_prob": options.get("attention_dropout", 0.0),
        "classifier_dropout_prob": given["decoder_dropout"],
        "drop_path_rate": options.get("drop_path_rate", 0.1),
        "decoder_hidden_size": given["decoder_segmentation_channels"],
        "semantic_loss_ignore_index": 255,
        "reshape_last_stage": True,
    }
