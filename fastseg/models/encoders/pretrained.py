"""Pretrained weights of encoders."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from ..files import read_tensors, unwrap
from .base import Encoder

# Commits of the repositories smp-hub/<name>.<weights>, the ones that smp 0.6 uses. A name without
# weights has imagenet's.
_REVISIONS = {
    "resnet18": "3f2325ff978283d47aa6a1d6878ca20565622683",
    "resnet34": "7a57b34f723329ff020b3f8bc41771163c519d0c",
    "resnet50": "00cb74e366966d59cd9a35af57e618af9f88efe9",
    "resnet101": "cd7c15e8c51da86ae6a084515fdb962d0c94e7d1",
    "resnet152": "951dd835e9d086628e447b484584c8983f9e1dd0",
    "mobilenet_v2": "e67aa804e17f7b404b629127eabbd224c4e0690b",
    "mit_b0": "9ce53d104d92d75aabb00aae70677aaab67e7c84",
    "mit_b1": "a04bf4f13a549bce677cf79b04852e7510782817",
    "mit_b2": "868ab6f13871dcf8c3d9f90ee4519403475b65ef",
    "mit_b3": "32558d12a65f1daa0ebcf4f4053c4285e2c1cbda",
    "mit_b4": "3a3454e900a4b4f11dd60eeb59101a9a1a36b017",
    "mit_b5": "ced04d96c586b6297fd59a7a1e244fc78fdb6531",
    "vgg11": "ad8b90e1051c38fdbf399cf5016886a1be357390",
    "vgg11_bn": "59757f9215032c9f092977092d57d26a9df7fd9c",
    "vgg13": "1b70ff2580f101a8007a48b51e2b5d1e5925dc42",
    "vgg13_bn": "9be454515193af6612261b7614fe90607e27b143",
    "vgg16": "49d74b799006ee252b86e25acd6f1fd8ac9a99c1",
    "vgg16_bn": "2c186d02fb519e93219a99a1c2af6295aef0bf0d",
    "vgg19": "2853d00d7bca364dbb98be4d6afa347e5aeec1f6",
    "vgg19_bn": "f09a924cb0d201ea6f61601df9559141382271d7",
    "resnet18.ssl": "d600d5116aac2e6e595f99f40612074c723c00b2",
    "resnet18.swsl": "0e3a35d4d8e344088c14a96eee502a88ac70eae1",
    "resnet50.ssl": "d07daf5b4377f3700c6ac61906b0aafbc4eca46b",
    "resnet50.swsl": "b9520cce124f91c6fe7eee45721a2c7954f0d8c0",
}
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_INSTEAD = (
    "pass encoder_weights=None for random weights or the path of a local file with the weights"
)


def known_weights(name: str) -> tuple[str, ...]:
    """Names of the weights that smp publishes for an encoder."""
    names = (key.partition(".") for key in _REVISIONS)
    return tuple(weights or "imagenet" for encoder, _, weights in names if encoder == name)


def load_weights(encoder: Encoder, name: str, weights: str) -> None:
    """Loads weights of the hub, or of a file.

    Args:
        weights: one of `known_weights(name)`, "owner/name" of a repository, or a path.

    Raises:
        ValueError: the weights cannot be loaded, or do not fit.
    """
    path = Path(weights)
    if weights in known_weights(name):
        key = name if weights == "imagenet" else f"{name}.{weights}"
        path = _download(weights, f"smp-hub/{name}.{weights}", _REVISIONS[key])
    elif not path.is_file() and _REPOSITORY.fullmatch(weights):
        path = _download(weights, weights, None)
    if not path.is_file():
        known = ", ".join(repr(known) for known in known_weights(name))
        raise ValueError(
            f"encoder_weights is {weights!r}: neither one of {known} nor a file; {_INSTEAD}"
        )
    state_dict = unwrap(str(path), read_tensors(path))
    first = next(key for key, value in encoder.state_dict().items() if value.dim() == 4)
    state_dict = {
        key: value
        for key, value in state_dict.items()
        if not key.startswith(encoder.classifier_prefix)
    }
    for key in encoder.unused_keys(state_dict):
        del state_dict[key]
    if first in state_dict:
        state_dict[first] = adapt_channels(state_dict[first], encoder.in_channels)
    try:
        encoder.load_state_dict(state_dict)
    except RuntimeError as error:
        raise ValueError(f"{path}: does not fit the encoder {name} ({error})") from error


def adapt_channels(weight: torch.Tensor, in_channels: int) -> torch.Tensor:
    """The first convolution's weight [C_out, C_in, h, w] for another number of input channels.

    One channel gets the sum (a grey image gives what it gave as RGB); more repeat the given ones in
    turn, scaled so that the activations keep their size.
    """
    given = weight.shape[1]
    if in_channels == given:
        return weight
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    index = torch.arange(in_channels, device=weight.device) % given
    return weight[:, index] * (given / in_channels)


def _download(weights: str, repository: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ValueError(
            f"encoder_weights={weights!r} needs the package huggingface_hub "
            f'(pip install "fastseg-kernels[hub]"); or {_INSTEAD}'
        ) from error
    try:
        return Path(hf_hub_download(repository, "model.safetensors", revision=revision))
    except Exception as error:  # the hub's client raises errors of several packages
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"encoder_weights={weights!r}: {repository} cannot be had from the Hugging Face hub "
            f"({type(error).__name__}: {reason[0] if reason else ''}); {_INSTEAD}"
        ) from error
