"""What `fastseg train` writes of a model beside its weights, and the model built from it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..classes import ClassSet, Color
from .base import SegmentationModel
from .deeplabv3 import DeepLabV3, DeepLabV3Plus
from .pspnet import PSPNet

# Tells a training checkpoint from every other file: its entry "format".
TRAINING_FORMAT = "fastseg training 1"
# Name on the command line -> class.
ARCHITECTURES: dict[str, Any] = {
    cls.__name__.lower(): cls for cls in (DeepLabV3, DeepLabV3Plus, PSPNet)
}


@dataclasses.dataclass(frozen=True)
class Description:
    """All that it takes to build a model again, its weights aside.

    Attributes:
        architecture: a key of ARCHITECTURES.
        encoder: name of the encoder.
        classes: of the data set.
        working_size: longer side, in pixels, of the images that it was trained on.
        options: more arguments of the model's constructor.
    """

    architecture: str
    encoder: str
    classes: ClassSet
    working_size: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, encoder_weights: str | None = None) -> SegmentationModel:
        """The model with random weights, its encoder perhaps with those of a file.

        Raises:
            ValueError: no such architecture, or arguments that it does not take.
        """
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"model is {self.architecture!r}, allowed are {', '.join(ARCHITECTURES)}"
            )
        make = ARCHITECTURES[self.architecture]
        try:
            model = make(
                self.encoder,
                encoder_weights=encoder_weights,
                classes=self.classes,
                **self.options,
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"{self.architecture} with {self.encoder}: {error}") from error
        model.working_size = self.working_size
        return model

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"options": dict(self.options)}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Description:
        """The reverse of `as_dict`. Raises KeyError and TypeError on anything else."""

        def colors(key: str) -> tuple[Color, ...]:
            return tuple((r, g, b) for r, g, b in stored["classes"][key])

        classes = ClassSet(
            tuple(stored["classes"]["names"]),
            colors("colors"),
            colors("overlay_colors"),
            stored["classes"]["background"],
        )
        return Description(**{**stored, "classes": classes})


def is_training_checkpoint(content: Any) -> bool:
    """Whether a file's content is what `fastseg train` wrote."""
    return isinstance(content, Mapping) and content.get("format") == TRAINING_FORMAT


def model_in(origin: str, state: Mapping[str, Any]) -> SegmentationModel:
    """The model of a training checkpoint, with its averaged weights if it has them, in eval mode.

    Args:
        origin: what messages call the checkpoint.
        state: what `fastseg train` wrote.

    Raises:
        ValueError: its entries do not fit each other.
    """
    try:
        model = Description.from_dict(state["description"]).build()
        model.load_state_dict(state["averaged"] or state["weights"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{origin}: not written by this version of fastseg train ({error})"
        ) from error
    return model.eval()
