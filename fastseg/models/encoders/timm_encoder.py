"""Any network of timm as a feature pyramid, under the names "tu-..." that smp has for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...nn.upernet import LayerNorm2d
from ..files import read_tensors, unwrap
from .base import Encoder

PREFIX = "tu-"
# Arguments of timm.create_model that are the encoder's own: where weights come from, and the rest.
_OWN = (
    "cache_dir",
    "checkpoint_path",
    "features_only",
    "in_chans",
    "out_indices",
    "output_stride",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
)


class TimmEncoder(Encoder):
    """A network of timm, asked for its features alone.

    Names of tensors and features are those of smp's universal encoder. Where a network has no
    features at stride 2, an empty map stands in their place; where it has some at stride 1, they
    stand in the place of the image.

    The network is made by timm and computes what it does there: fastseg adds what follows it.

    Args:
        name: of timm, perhaps with the tag of its weights: "convnext_tiny.fb_in22k".
        in_channels, depth: as in `Encoder`.
        output_stride: 32, or 8 or 16 where timm has that for the network.
        weights: None for random ones; True or "imagenet" for timm's own; "owner/name" of a
            repository of the Hugging Face hub; or the path of a file of the whole network's.
        feature_norm_eps: of a layer norm of each of the network's features, as transformers and
            mmsegmentation have it in UPerNet; None for no norm.
        options: further arguments of timm.create_model, such as img_size.

    Attributes:
        mean, std: of the values that the network's weights were trained on; None if unknown.

    Raises:
        ValueError: timm is not installed, or has no such network, or no such features of it.
    """

    prefixes = ()
    rounds_up = False  # of some networks, and there is no way to ask

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        depth: int = 5,
        output_stride: int = 32,
        weights: str | bool | None = None,
        feature_norm_eps: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, depth, output_stride)
        self.name = name
        if own := [option for option in _OWN if option in options]:
            raise ValueError(f"encoder option {own[0]} is given elsewhere, or not at all")
        given = {**options, "in_chans": in_channels}
        if self.output_stride < min(32, 2**depth):
            given["output_stride"] = self.output_stride
        # Its own buffers are filled on construction, which on the meta device would be lost.
        with torch.device("cpu"):
            model = _made(name, **given)
            strides = _strides(name, model, given.get("output_stride", 32))
            wanted = [index for halving, index in strides.items() if halving <= depth]
            if weights is not None or wanted != list(model.feature_info.out_indices):
                given |= _source(weights)
                model = _made(name, out_indices=tuple(wanted), **given)
        if max(strides) < depth:
            raise ValueError(
                f"encoder depth is {depth}, but {PREFIX}{name} halves the image {max(strides)} "
                "times only"
            )
        self.model = model
        self.halvings = [halving for halving in strides if halving <= depth]
        channels = dict(zip(self.halvings, model.feature_info.channels(), strict=True))
        self.out_channels = [
            channels.get(halving, in_channels if halving == 0 else 0)
            for halving in range(depth + 1)
        ]
        self.norms: nn.ModuleList | None = None
        if feature_norm_eps is not None:
            self.norms = nn.ModuleList(
                LayerNorm2d(count, eps=feature_norm_eps) for count in channels.values()
            )
        self.is_channels_last = str(getattr(model, "output_fmt", None)).endswith("NHWC")
        config = getattr(model, "pretrained_cfg", None) or {}
        self.mean, self.std = (_statistic(config.get(key)) for key in ("mean", "std"))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x and the features at each stride, finest first: depth + 1 maps."""
        found = self.model(self.to_early(x))
        if self.is_channels_last:
            found = [feature.permute(0, 3, 1, 2) for feature in found]
        if self.norms is not None:
            found = [norm(feature) for norm, feature in zip(self.norms, found, strict=True)]
        features = dict(zip(self.halvings, found, strict=True))
        half = (-(-x.shape[2] // 2), -(-x.shape[3] // 2))
        missing = {0: x, 1: x.new_empty((x.shape[0], 0, *half))}
        return [
            features[halving] if halving in features else missing[halving]
            for halving in range(self.depth + 1)
        ]

    def early_layers(self) -> list[nn.Module]:
        """None: which ones they are is not known."""
        return []

    def unused_keys(self, names: Iterable[str]) -> list[str]:
        """None: timm leaves out what is not built."""
        return []


def _made(name: str, **options: Any) -> Any:
    try:
        return timm().create_model(name, features_only=True, **options)
    except Exception as error:  # of any network, and of the hub's client
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"encoder_name is {PREFIX + name!r}: timm cannot make its features "
            f"({type(error).__name__}: {reason})"
        ) from error


def timm() -> Any:
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import timm as package
    except ImportError as error:
        raise ValueError(
            f'encoders "{PREFIX}..." need the package timm: pip install "fastseg-kernels[timm]"'
        ) from error
    return package


def _strides(name: str, model: Any, output_stride: int) -> dict[int, int]:
    """Number of halvings -> index of the features, the finest first.

    Raises:
        ValueError: the features are not one map per halving.
    """
    reductions, indices = model.feature_info.reduction(), model.feature_info.out_indices
    ladders = (
        [min(2**halving, output_stride) for halving in range(first, first + len(reductions))]
        for first in (0, 1, 2)
    )
    for first, ladder in enumerate(ladders):
        if list(reductions) == ladder:
            return {first + i: index for i, index in enumerate(indices)}
    raise ValueError(
        f"encoder_name is {PREFIX + name!r}: its features have the strides {list(reductions)}, "
        f"expected the powers of 2 from 1, 2 or 4 on, up to {output_stride}"
    )


def _source(weights: str | bool | None) -> dict[str, Any]:
    """Where timm takes the weights from: arguments of its create_model."""
    if weights is None or weights is False:
        return {}
    if weights is True or weights == "imagenet":
        return {"pretrained": True}
    path = Path(weights)
    if path.is_file():
        overlay: dict[str, Any] = {"state_dict": unwrap(str(path), read_tensors(path))}
    elif weights.count("/") == 1:
        overlay = {"hf_hub_id": weights, "source": "hf-hub"}
    else:
        raise ValueError(
            f"encoder_weights is {weights!r}, expected True or 'imagenet' for timm's own, a file, "
            "or 'owner/name' of the Hugging Face hub"
        )
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _statistic(values: Any) -> tuple[float, ...] | None:
    return tuple(float(value) for value in values) if values else None
