"""config.json of transformers' UperNetForSemanticSegmentation with a Swin, as our arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._schema import ANYTHING, Array, Boolean, Integer, Number, Record, Schema, Text
from .encoders import SWIN_VARIANTS

_SIZE, _RATE = Integer(1, 1 << 20), Number(0.0, 1.0)
_SIZES = Array(_SIZE, 1, 64)
_SWIN: dict[str, Schema] = {
    "model_type": Text(),
    "embed_dim": _SIZE,
    "depths": _SIZES,
    "num_heads": _SIZES,
    "window_size": _SIZE,
    "mlp_ratio": Number(0.0, 1e3),
    "num_channels": _SIZE,
    "patch_size": _SIZE,
    "hidden_act": Text(),
    "qkv_bias": Boolean(),
    "use_absolute_embeddings": Boolean(),
    "layer_norm_eps": Number(0.0, 1.0),
    "out_features": Array(Text(), 1, 64),
    "hidden_dropout_prob": _RATE,
    "attention_probs_dropout_prob": _RATE,
    "drop_path_rate": _RATE,
}
FIELDS: dict[str, Schema] = {
    "backbone_config": Record({}, _SWIN, ANYTHING),
    "hidden_size": _SIZE,
    "pool_scales": _SIZES,
    "use_auxiliary_head": Boolean(),
    "auxiliary_channels": _SIZE,
    "auxiliary_num_convs": Integer(0, 64),
    "auxiliary_concat_input": Boolean(),
    "auxiliary_loss_weight": Number(0.0, 1e3),
}


def arguments(origin: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of UPerNet.

    Raises:
        ValueError: another backbone, or a network that computes something else.
    """
    swin = given.get("backbone_config", {})
    expected = {
        "model_type": "swin",
        "patch_size": 4,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    head = {
        "auxiliary_num_convs": 1,
        "auxiliary_concat_input": False,
        "auxiliary_loss_weight": 0.4,
    }
    for name, value in expected.items():
        found = swin.get(name, value if name != "model_type" else None)
        if found != value:
            raise ValueError(f"{origin}: backbone_config.{name} is {found}, only {value} is known")
    for name, value in head.items():
        if given.get(name, value) != value:
            raise ValueError(f"{origin}: {name} is {given[name]}, only {value} is known")
    shape = {
        "width": swin.get("embed_dim", 96),
        "depths": list(swin.get("depths", (2, 2, 6, 2))),
        "heads": list(swin.get("num_heads", (3, 6, 12, 24))),
    }
    encoder, options = "swin_t", dict(shape)
    for name, (width, depths, heads) in SWIN_VARIANTS.items():
        if shape == {"width": width, "depths": list(depths), "heads": list(heads)}:
            encoder, options = name, {}
    usual = {
        "window": ("window_size", 7),
        "expansion": ("mlp_ratio", 4.0),
        "dropout": ("hidden_dropout_prob", 0.0),
        "attention_dropout": ("attention_probs_dropout_prob", 0.0),
        "drop_path_rate": ("drop_path_rate", 0.1),
    }
    for ours, (theirs, default) in usual.items():
        if swin.get(theirs, default) != default:
            options[ours] = swin[theirs]
    return {
        "encoder_name": encoder,
        "encoder_weights": None,
        "encoder_depth": 5,
        "decoder_channels": given.get("hidden_size", 512),
        "in_channels": swin.get("num_channels", 3),
        "encoder_options": options,
        "decoder_feature_norm_eps": None,
        "psp_bins": given.get("pool_scales", [1, 2, 3, 6]),
        "auxiliary_channels": (
            given.get("auxiliary_channels", 256) if given.get("use_auxiliary_head", True) else None
        ),
        "align_corners": False,
    }
