"""How images are prepared for an encoder's weights, as segmentation_models_pytorch tells it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy
import torch

from .pretrained import known_weights
from .timm_encoder import PREFIX, timm

# Of all weights that smp publishes for the encoders here.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def get_preprocessing_params(encoder_name: str, pretrained: str = "imagenet") -> dict[str, Any]:
    """What the images were like that an encoder's weights were trained on.

    The same as segmentation_models_pytorch.encoders.get_preprocessing_params, without asking the
    hub.

    Args:
        encoder_name: key of fastseg.models.ENCODERS, or "tu-" and a name of timm.
        pretrained: name of the weights, of our own encoders.

    Returns:
        "input_space" ("RGB"), "input_range" ([0, 1]: values are divided by 255 first), "mean" and
        "std" of each channel.

    Raises:
        ValueError: there are no such weights.
    """
    if encoder_name.startswith(PREFIX):
        package, name = timm(), encoder_name[len(PREFIX) :]
        if not package.models.is_model_pretrained(name):
            raise ValueError(f"encoder_name is {encoder_name!r}: timm has no weights of it")
        config = package.models.get_pretrained_cfg(name)
        mean, std = config.mean, config.std
    else:
        known = known_weights(encoder_name)
        if pretrained not in known:
            raise ValueError(
                f"pretrained is {pretrained!r}, of {encoder_name} there are {', '.join(known)}"
            )
        mean, std = _MEAN, _STD
    return {"input_space": "RGB", "input_range": [0, 1], "mean": list(mean), "std": list(std)}


def get_preprocessing_fn(
    encoder_name: str, pretrained: str = "imagenet"
) -> Callable[[Any], numpy.ndarray]:
    """Makes a function from an image, uint8 or float [..., H, W, C], to (image / 255 - mean) / std.

    The same as segmentation_models_pytorch.encoders.get_preprocessing_fn. Floating images with no
    value above 1 are not divided by 255.

    Args:
        encoder_name, pretrained: as in `get_preprocessing_params`.

    Returns:
        The function, which returns a floating array of the image's shape.

    Raises:
        ValueError: as `get_preprocessing_params`.
    """
    return functools.partial(preprocess_input, **get_preprocessing_params(encoder_name, pretrained))


def preprocess_input(
    x: Any,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    input_space: str = "RGB",
    input_range: list[float] | None = None,
    **_: Any,
) -> numpy.ndarray:
    """An image as a network's weights expect it.

    Args:
        x: RGB image [..., H, W, C].
        mean, std: of each channel; None leaves them out.
        input_space: "RGB" or "BGR", which reverses the channels.
        input_range: where its end is 1, values are divided by 255, unless none is above 1.

    Returns:
        float64, or the dtype of a floating x.
    """
    image = x.numpy() if isinstance(x, torch.Tensor) else numpy.asarray(x)
    if input_space == "BGR":
        image = image[..., ::-1]
    if input_range is not None and input_range[1] == 1 and image.max() > 1:
        image = image / 255.0
    if mean is not None:
        image = image - numpy.asarray(mean)
    return image if std is None else image / numpy.asarray(std)
