"""The same small runs in one process and in two."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from tiny_data import CLASSES, TinyModel, read

from fastseg import FPN, DeepLabV2, DeepLabV3Plus, PlainUNet, SegFormer, U2Net
from fastseg.data import Batch
from fastseg.engine.config import TrainConfig
from fastseg.engine.processes import Processes
from fastseg.engine.trainer import RunOptions, Trainer
from fastseg.metrics import Scores
from fastseg.models.description import Description

BATCH = 4
WEIGHTS = torch.tensor([0.5, 2.0, 1.0])
CONFIG = TrainConfig(
    iterations=8, batch_size=4, crop=(32, 40), working_size=64, lr=0.01, warmup=2, ema=0.9, seed=5
)  # fmt: skip
DESCRIPTION = Description("tiny", "none", CLASSES, 64)


class Silent:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.results: list[Scores] = []

    def step(self, iteration: int, loss: float, lr: float) -> None:
        self.losses.append(loss)

    def validating(self, done: int, total: int) -> None: ...

    def validated(self, iteration: int, result: Scores) -> None:
        self.results.append(result)


def make_trainer(
    dataset: Path,
    out: Path,
    processes: Processes | None = None,
    config: TrainConfig = CONFIG,
    *,
    dtype: torch.dtype = torch.float64,
    dropout: float = 0.0,
    **options: Any,
) -> Trainer:
    """A run of TinyModel; in float64 and without dropout it is the same on any processes."""
    torch.manual_seed(0)
    model = TinyModel(dropout=dropout).to(dtype)
    options = {"validate_every": 4, **options}
    return Trainer(
        model,
        DESCRIPTION,
        read(dataset, "train"),
        read(dataset, "val"),
        config,
        RunOptions(out, **options),
        Silent(),
        processes=processes,
    )


def interrupt(trainer: Trainer, steps: int) -> None:
    """Lets this process receive SIGTERM during the step after which `steps` are done."""
    train = trainer._train

    def interrupted(batch: Batch, total: float) -> None:
        train(batch, total)
        if trainer.iteration + 1 == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._train = interrupted  # type: ignore[method-assign]


def tiny() -> TinyModel:
    torch.manual_seed(1)
    return TinyModel(dropout=0.0)


def deeplab() -> DeepLabV3Plus:
    torch.manual_seed(1)
    return DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=3, decoder_aspp_dropout=0.0)


def _others() -> dict[str, Any]:
    """Architectures over their smallest encoders, without dropout, with several losses."""
    mit = {"depths": (1, 1, 1, 1), "widths": (8, 16, 40, 64), "drop_path_rate": 0.0}
    return {
        "segformer": lambda: SegFormer(
            "mit_b0", 5, None, 16, classes=3, encoder_options=mit, decoder_dropout=0.0
        ),
        "deeplabv2": lambda: DeepLabV2(
            "resnet18", 3, None, decoder_atrous_rates=(1, 2), classes=3, scales=(0.5,)
        ),
        "plainunet": lambda: PlainUNet(3, base_channels=4, depth=3, head_channels=4, dropout=0.0),
        "u2net": lambda: U2Net(3, channels=(8,) * 11, hidden=(4,) * 11),
        "fpn": lambda: FPN(
            "resnet18", 3, None, 8, 32, decoder_dropout=0.0, classes=3, upsampling=1
        ),
    }


def made(name: str) -> Any:
    """The model of this name."""
    if name in ("tiny", "deeplab"):
        return {"tiny": tiny, "deeplab": deeplab}[name]()
    torch.manual_seed(1)
    return _others()[name]()


MODELS = ("tiny", "deeplab", *_others())


def batch_norm_case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 5, 6, 7, generator=generator, dtype=torch.float64) * 3 + 100
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


def step_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views whose halves have very different numbers of pixels that count."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (BATCH, 32, 48, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (BATCH, 32, 48), generator=generator, dtype=torch.uint8)
    labels[0, 4:] = 255
    labels[1] = 255
    colors = torch.eye(3, 4).repeat(BATCH, 1, 1)
    colors[:, :, 3] = torch.randn(BATCH, 3, generator=generator)
    return images, labels, colors
