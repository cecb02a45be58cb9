"""The configuration of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..models.constructor import arguments_schema
from ..nn.losses import parse_loss

OPTIMIZERS = ("adamw", "sgd")
CLASS_WEIGHTS = ("none", "median-frequency", "sqrt-frequency")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that determines the final weights, apart from the data and the initial weights.

    Attributes:
        iterations: optimizer steps.
        batch_size: images per optimizer step, over all processes and accumulated parts together.
        crop: (height, width) in pixels of the views that the network sees.
        working_size: longer side that images have at scale 1; validation sees all of them there.
        scale: smallest and largest random scale of a view.
        color: strength of the random colour changes; 0 is none.
        optimizer: "adamw" or "sgd" (momentum 0.9, Nesterov).
        lr: learning rate at the end of the warmup.
        weight_decay: of weights with two or more dimensions; biases and norms have none.
        power: of the poly schedule, lr * (1 - i / iterations) ** power. A run that is made longer
            goes on with the learning rates of a run of the new length.
        warmup: steps during which the learning rate grows linearly.
        ema: decay per step of the averaged weights, which are validated and kept; 0 is none.
        class_weights: "none", "median-frequency" or "sqrt-frequency", its square root.
        label_smoothing: share of each target spread evenly over all classes.
        loss: names of nn.CombinedLoss with weights, such as "ce+0.5*dice"; class_weights and
            label_smoothing are of "ce".
        clip: largest norm of the gradient; 0 is no limit.
        bf16: autocast to bfloat16.
        seed: of the initial weights, the order and views of the images, and dropout.
        init: what the initial weights come from, for the record; None is the seed.
    """

    iterations: int
    batch_size: int = 8
    crop: tuple[int, int] = (352, 480)
    working_size: int = 512
    scale: tuple[float, float] = (0.5, 2.0)
    color: float = 1.0
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    power: float = 0.9
    warmup: int = 100
    ema: float = 0.998
    class_weights: str = "none"
    label_smoothing: float = 0.0
    loss: str = "ce"
    clip: float = 0.0
    bf16: bool = False
    seed: int = 0
    init: str | None = None

    def __post_init__(self) -> None:
        positive: dict[str, float] = {"iterations": self.iterations, "batch_size": self.batch_size}
        positive |= {"working_size": self.working_size, "crop": min(self.crop), "lr": self.lr}
        for name, value in positive.items():
            if not value > 0:  # NaN is not
                raise ValueError(f"{name} is {value}, expected more than 0")
        not_negative = ("color", "weight_decay", "power", "warmup", "clip", "seed")
        for name in not_negative:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}, expected a smallest and a largest above 0")
        for name in ("ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to below 1")
        for name, allowed in (("optimizer", OPTIMIZERS), ("class_weights", CLASS_WEIGHTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, allowed are {', '.join(allowed)}"
                )

        parse_loss(self.loss, loss_mode(self.loss))

    def as_json(self) -> dict[str, Any]:
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TrainConfig:
        """The reverse of `as_json`. Fields that an older version did not know have their defaults.

        Raises:
            ValueError: a field that is not known, or of another kind or range.
        """
        values: dict[str, Any] = arguments_schema(cls).check(stored)
        pairs = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **pairs})

    def differences(self, stored: TrainConfig) -> list[str]:
        """Lists, in words, what differs from the configuration in a checkpoint.

        The number of iterations is left out, since a run can be made longer, and so is `init`,
        since the checkpoint holds the weights.
        """
        before = stored.as_json()
        return [
            f"{key} is {value}, was {before[key]}"
            for key, value in self.as_json().items()
            if before[key] != value and key not in ("iterations", "init")
        ]


def loss_mode(loss: str) -> str:
    """The mode of the losses that TrainConfig.loss names: "bce" is of one class."""
    return "binary" if "bce" in loss else "multiclass"
