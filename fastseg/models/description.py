"""The description of a model in a checkpoint of `fastseg train`, and the model built from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from .._json import checked
from .._messages import shortened
from .._schema import (
    ANYTHING,
    PLAIN,
    Array,
    Instance,
    Integer,
    Number,
    Record,
    Schema,
    Table,
    Text,
    nullable,
    shown,
)
from ..classes import ClassSet
from .architectures import ARCHITECTURES, takes_encoder
from .base import SegmentationModel
from .constructor import arguments_schema, build
from .files import fill
from .stored_classes import StoredClasses, stored

# The entry "format" of a training checkpoint, which no other file has.
TRAINING_FORMAT = "fastseg training 1"


@dataclasses.dataclass(frozen=True)
class Description:
    """Everything needed to build a model again, except for its weights.

    Attributes:
        architecture: a key of ARCHITECTURES.
        encoder: name of the encoder, "" for architectures that have layers of their own.
        classes: of the data set.
        working_size: longer side, in pixels, of the images that it was trained on.
        options: more arguments of the model's constructor.
        mean, std: of each band of the data set, where 255 is 1; None keeps the model's own.
    """

    architecture: str
    encoder: str
    classes: ClassSet
    working_size: int = 512
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

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
        for name in ("encoder_name", "encoder_weights", "classes"):
            if name in self.options:
                raise ValueError(f"{self.architecture}: {name} is no option, it is given elsewhere")
        checked(self.architecture, self.options, arguments_schema(make))
        over: dict[str, Any] = {}
        if takes_encoder(self.architecture):
            over = {"encoder_name": self.encoder, "encoder_weights": encoder_weights}
        elif self.encoder or encoder_weights:
            raise ValueError(
                f"{self.architecture} has layers of its own, and no encoder to choose: encoder is "
                f"{self.encoder or encoder_weights!r}"
            )
        try:
            model = make(**over, classes=self.classes, **self.options)
        except (TypeError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"{self.architecture} with {self.encoder}: {shortened(error)}"
            ) from error
        self._prepare(model)
        return model

    def _prepare(self, model: SegmentationModel) -> None:
        """Sets how the model sees images."""
        model.working_size = self.working_size
        if self.mean is not None:
            model.mean = self.mean
        if self.std is not None:
            model.std = self.std

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {
            "classes": stored(self.classes),
            "options": dict(self.options),
        }

    @staticmethod
    def from_dict(content: Any, field: str = "") -> Description:
        """The reverse of `as_dict`; fields that an older version did not write have the defaults.

        Args:
            field: what messages call the content.

        Raises:
            Unfit: on anything else.
        """
        fields = _STORED.check(content, field)
        for name in ("mean", "std"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        return Description(**fields)


_BANDS = 1 << 16
_STORED = Record(
    {"architecture": Text(), "encoder": Text(), "classes": StoredClasses()},
    {
        "working_size": Integer(1, 1 << 20),
        "options": Table(PLAIN),
        "mean": nullable(Array(Number(), 1, _BANDS)),
        "std": nullable(Array(Number(above=0), 1, _BANDS)),
    },
)


class StoredDescription(Schema):
    """What `Description.as_dict` makes; `check` returns the Description."""

    expected = _STORED.expected

    def check(self, value: Any, field: str = "") -> Description:
        return Description.from_dict(value, field)


def is_training_checkpoint(content: Any) -> bool:
    """Whether a file's content is what `fastseg train` wrote."""
    return isinstance(content, Mapping) and content.get("format") == TRAINING_FORMAT


WEIGHTS = Table(Instance(torch.Tensor, "a tensor"))
_WITH_MODEL = Record(
    {"description": StoredDescription(), "weights": WEIGHTS},
    {"averaged": nullable(WEIGHTS)},
    others=ANYTHING,
)


def model_in(origin: str, state: Mapping[str, Any]) -> SegmentationModel:
    """The model of a training checkpoint, with its averaged weights if it has them, in eval mode.

    Args:
        origin: what messages call the checkpoint.
        state: what `fastseg train` wrote.

    Raises:
        ValueError: its entries do not fit each other.
    """
    content = checked(origin, state, _WITH_MODEL)
    description: Description = content["description"]
    weights = content.get("averaged") or content["weights"]
    if description.architecture not in ARCHITECTURES:
        raise ValueError(
            f"{origin}: description.architecture is {shown(description.architecture)}, allowed "
            f"are {', '.join(ARCHITECTURES)}"
        )
    arguments = dict(description.options)
    if takes_encoder(description.architecture):
        arguments["encoder_name"] = description.encoder
    model = build(
        origin,
        ARCHITECTURES[description.architecture],
        arguments,
        len(weights),
        classes=description.classes,
    )
    for name in ("mean", "std"):
        values = getattr(description, name)
        if values is not None and len(values) not in (3, model.in_channels):
            raise ValueError(
                f"{origin}: description.{name} has {len(values)} numbers, expected one for each of "
                f"{model.in_channels} bands"
            )
    description._prepare(model)
    return fill(origin, description.architecture, model, weights)
