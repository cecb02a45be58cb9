"""Models by the name of their architecture."""

from __future__ import annotations

from typing import Any

from ..classes import ClassSet
from .architectures import ARCHITECTURES, takes_encoder

_ENCODER = "resnet34"  # smp's default


def create_model(
    arch: str,
    encoder_name: str = _ENCODER,
    encoder_weights: str | None = "imagenet",
    in_channels: int = 3,
    classes: ClassSet | int = 1,
    **arguments: Any,
) -> Any:
    """Makes a model from its architecture's name, as segmentation_models_pytorch.create_model does.

    Args:
        arch: key of fastseg.models.ARCHITECTURES, in upper or lower case.
        encoder_name: see fastseg.models.make_encoder. Architectures that have layers of their own
            take no other than the default, and no weights of it.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        in_channels: of the input.
        classes: their number, or names and colours.
        **arguments: further arguments of the architecture's constructor.

    Returns:
        The model.

    Raises:
        ValueError: unknown architecture, argument out of range, or weights that cannot be loaded.
    """
    if arch.lower() not in ARCHITECTURES:
        raise ValueError(f"arch is {arch!r}, allowed are {', '.join(ARCHITECTURES)}")
    if not takes_encoder(arch.lower()):
        if encoder_name != _ENCODER or encoder_weights not in (None, "imagenet"):
            raise ValueError(
                f"arch is {arch!r}, which has layers of its own: encoder_name is {encoder_name!r} "
                f"and encoder_weights {encoder_weights!r}, leave both out"
            )
        return ARCHITECTURES[arch.lower()](
            in_channels=in_channels,
            classes=classes,
            **arguments,
        )
    return ARCHITECTURES[arch.lower()](
        encoder_name=encoder_name,
        encoder_weights=encoder_weights,
        in_channels=in_channels,
        classes=classes,
        **arguments,
    )
