"""The models that can be named: built anew, described in checkpoints, and built from them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import models
from ..classes import ClassSet, Color
from ..models import SegmentationModel, default_model, load_checkpoint
from . import checkpoint

# Name on the command line -> name of the class.
ARCHITECTURES = {
    name.lower(): name for name in ("DeepLabV3", "DeepLabV3Plus", "PSPNet") if hasattr(models, name)
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
        make = getattr(models, ARCHITECTURES[self.architecture])
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


def load_model(path: Path | None) -> SegmentationModel:
    """The model of any weights file: of fastseg train, a folder of save_pretrained, or a known one.

    Without a path, the model that ships with the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no model that is known, or is damaged.
    """
    if path is None:
        return default_model()
    if path.is_dir():
        return SegmentationModel.from_pretrained(path)
    try:
        state = checkpoint.load(path)
    except checkpoint.CheckpointError:
        return load_checkpoint(path)
    return model_in(path, state)


def model_in(path: Path, state: Mapping[str, Any]) -> SegmentationModel:
    """The model of a training checkpoint, with its averaged weights if it has them, in eval mode.

    Raises:
        ValueError: its entries do not fit each other.
    """
    try:
        model = Description.from_dict(state["description"]).build()
        model.load_state_dict(state["averaged"] or state["weights"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: not written by this version of fastseg train ({error})"
        ) from error
    return model.eval()


def start_from(model: SegmentationModel, source: SegmentationModel) -> list[str]:
    """Copies the weights that fit in name and shape, and says which were left as they are.

    Raises:
        ValueError: none fits.
    """
    own, given = model.state_dict(), source.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not any(isinstance(v, torch.Tensor) and v.dim() > 1 for v in fitting.values()):
        raise ValueError(f"its weights are those of another model ({type(source).__name__})")
    model.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]
