"""config.json of transformers' UperNetForSemanticSegmentation, with a Swin or a ConvNeXt, and our
arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._schema import ANYTHING, Array, Boolean, Integer, Number, Record, Schema, Text
from .checkpoints import convnext
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
_CONVNEXT: dict[str, Schema] = {"hidden_sizes": _SIZES, "layer_scale_init_value": Number(0.0, 1e6)}
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
# Our options of a Swin: the name there, and what it has by default.
_OPTIONS = {
    "window": ("window_size", 7),
    "expansion": ("mlp_ratio", 4.0),
    "dropout": ("hidden_dropout_prob", 0.0),
    "attention_dropout": ("attention_probs_dropout_prob", 0.0),
    "drop_path_rate": ("drop_path_rate", 0.1),
}
_EXPECTED: dict[str, dict[str, Any]] = {
    "swin": {
        "patch_size": 4,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "use_absolute_embeddings": False,
        "layer_norm_eps": 1e-5,
        "out_features": _STAGES,
    },
    "convnext": {"patch_size": 4, "hidden_act": "gelu", "out_features": _STAGES},
}
FIELDS: dict[str, Schema] = {
    "backbone_config": Record({}, {**_SWIN, **_CONVNEXT}, ANYTHING),
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
    backbone = given.get("backbone_config", {})
    kind = backbone.get("model_type")
    if kind not in _EXPECTED:
        known = " and ".join(_EXPECTED)
        raise ValueError(f"{origin}: backbone_config.model_type is {kind}, only {known} are known")
    expected = _EXPECTED[kind]
    head = {
        "auxiliary_num_convs": 1,
        "auxiliary_concat_input": False,
        "auxiliary_loss_weight": 0.4,
    }
    for name, value in expected.items():
        found = backbone.get(name, value)
        if found != value:
            raise ValueError(f"{origin}: backbone_config.{name} is {found}, only {value} is known")
    for name, value in head.items():
        if given.get(name, value) != value:
            raise ValueError(f"{origin}: {name} is {given[name]}, only {value} is known")
    over = _swin(backbone) if kind == "swin" else _convnext(origin, backbone)
    return {
        **over,
        "encoder_weights": None,
        "encoder_depth": 5,
        "decoder_channels": given.get("hidden_size", 512),
        "in_channels": backbone.get("num_channels", 3),
        "decoder_feature_norm_eps": None,
        "psp_bins": given.get("pool_scales", [1, 2, 3, 6]),
        "auxiliary_channels": (
            given.get("auxiliary_channels", 256) if given.get("use_auxiliary_head", True) else None
        ),
        "align_corners": False,
    }


def _swin(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's name and options."""
    shape = {
        "width": backbone.get("embed_dim", 96),
        "depths": list(backbone.get("depths", (2, 2, 6, 2))),
        "heads": list(backbone.get("num_heads", (3, 6, 12, 24))),
    }
    encoder, options = "swin_t", dict(shape)
    for name, (width, depths, heads) in SWIN_VARIANTS.items():
        if shape == {"width": width, "depths": list(depths), "heads": list(heads)}:
            encoder, options = name, {}
    for ours, (theirs, default) in _OPTIONS.items():
        if backbone.get(theirs, default) != default:
            options[ours] = backbone[theirs]
    return {"encoder_name": encoder, "encoder_options": options}


def _convnext(origin: str, backbone: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's name and options.

    Raises:
        ValueError: its layers have no scale.
    """
    if backbone.get("layer_scale_init_value", 1e-6) == 0:
        raise ValueError(f"{origin}: backbone_config.layer_scale_init_value is 0, expected more")
    depths = tuple(backbone.get("depths", (3, 3, 9, 3)))
    widths = tuple(backbone.get("hidden_sizes", (96, 192, 384, 768)))
    if len(depths) != 4 or len(widths) != 4:
        raise ValueError(f"{origin}: backbone_config.depths and hidden_sizes: expected 4 stages")
    over = convnext.variant(depths, widths)
    if rate := backbone.get("drop_path_rate", 0.0):
        over["encoder_options"]["drop_path_rate"] = rate
    return over


def config(model: Any) -> dict[str, Any]:
    """The fields of config.json of UperNetForSemanticSegmentation.

    Raises:
        ValueError: the model computes something that it does not.
    """
    given = model._arguments
    options = dict(given["encoder_options"] or {})
    name = given["encoder_name"]
    why_not = None
    if name not in SWIN_VARIANTS and name.removeprefix("tu-") not in convnext.VARIANTS:
        why_not = f"encoder_name is {name!r}, it has Swins and ConvNeXts"
    elif given["encoder_depth"] != 5:
        why_not = f"encoder_depth is {given['encoder_depth']}, it has 5"
    elif model.align_corners:
        why_not = "align_corners is True, it has False"
    elif given["decoder_feature_norm_eps"] is not None:
        why_not = "decoder_feature_norm_eps is given, it has the norms in the encoder"
    elif given["decoder_use_norm"] not in ("batchnorm", True):
        why_not = f"decoder_use_norm is {given['decoder_use_norm']!r}, it has batch norms"
    elif model.classification_head is not None:
        why_not = "aux_params are given, it has no labels of the whole image"
    elif name not in SWIN_VARIANTS and options.get("feature_norm_eps") != convnext.EPSILON:
        why_not = f"feature_norm_eps of the encoder is not {convnext.EPSILON}, which it always has"
    if why_not is not None:
        raise ValueError(f"this UPerNet is none that transformers has: {why_not}")
    backbone: dict[str, Any] = {"num_channels": model.in_channels, "out_features": _STAGES}
    if name in SWIN_VARIANTS:
        width, depths, heads = SWIN_VARIANTS[name]
        backbone |= {
            "model_type": "swin",
            "embed_dim": options.get("width", width),
            "depths": list(options.get("depths", depths)),
            "num_heads": list(options.get("heads", heads)),
            **{theirs: options.get(ours, usual) for ours, (theirs, usual) in _OPTIONS.items()},
        }
    else:
        depths, widths = convnext.VARIANTS[name.removeprefix("tu-")]
        backbone |= {
            "model_type": "convnext",
            "depths": list(options.get("depths", depths)),
            "hidden_sizes": list(options.get("dims", widths)),
            "drop_path_rate": options.get("drop_path_rate", 0.0),
        }
    auxiliary = given["auxiliary_channels"]
    return {
        "architectures": ["UperNetForSemanticSegmentation"],
        "model_type": "upernet",
        "backbone_config": backbone,
        "hidden_size": given["decoder_channels"],
        "pool_scales": list(given["psp_bins"]),
        "use_auxiliary_head": bool(auxiliary),
        "auxiliary_channels": auxiliary or 256,
        "auxiliary_loss_weight": 0.4,
        "loss_ignore_index": 255,
    }
