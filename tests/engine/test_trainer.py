"""The training loop in one process: it learns, and an interruption leaves no trace."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

pytest.importorskip("PIL")

from tiny_data import TinyModel, make_dataset, read
from training_case import CONFIG, Silent, interrupt, make_trainer

from fastseg.engine import checkpoint
from fastseg.engine.config import TrainConfig
from fastseg.engine.optim import Averaged, class_weights, learning_rate, make_optimizer
from fastseg.engine.step import TrainingStep, parts, weight_of
from fastseg.engine.trainer import BEST, LAST, TrainingError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), {"train": 6, "val": 3})


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_loss_falls_and_miou_rises(dataset: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, iterations=80, lr=0.03, color=0.3)
    trainer = make_trainer(
        dataset, tmp_path, config=config, dtype=torch.float32, dropout=0.1, validate_every=20
    )
    outcome = trainer.run()
    assert (outcome.iteration, outcome.stopped, outcome.signal) == (80, "", 0)
    reporter = trainer.reporter
    assert isinstance(reporter, Silent)
    assert len(reporter.losses) == 80
    assert sum(reporter.losses[-10:]) < 0.5 * sum(reporter.losses[:10])
    assert outcome.best == max(result.miou for result in reporter.results) > 0.7
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["iteration"] == 80
    assert metrics["best_mIoU"] == outcome.best
    assert [v["iteration"] for v in metrics["validation"]] == [20, 40, 60, 80]
    assert metrics["config"] == config.as_json()
    assert numpy.mean(metrics["loss"]["mean"]) == pytest.approx(numpy.mean(reporter.losses))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    best = checkpoint.load(tmp_path / BEST)
    assert best["iteration"] in (20, 40, 60, 80)
    assert not list(tmp_path.glob(".*"))  # no temporary files stay


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "sgd", "ema": 0.0, "clip": 1.0},
        {"class_weights": "sqrt-frequency", "label_smoothing": 0.1, "bf16": True},
    ],
)
def test_interrupted_and_continued_is_the_same_to_the_bit(
    dataset: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = dataclasses.replace(CONFIG, **change)
    common: dict[str, Any] = {"config": config, "dtype": torch.float32, "dropout": 0.3}
    whole = make_trainer(dataset, tmp_path / "whole", **common)
    whole.run()
    first = make_trainer(dataset, tmp_path / "parts", **common)
    interrupt(first, 3)
    outcome = first.run()
    assert (outcome.iteration, outcome.stopped, outcome.signal) == (3, "by SIGTERM", 15)
    # Another seed of everything global, other threads and another place of the validations.
    torch.manual_seed(123)
    second = make_trainer(dataset, tmp_path / "parts", **common, threads=2)
    second.resume(tmp_path / "parts" / LAST)
    torch.manual_seed(99)
    assert second.run().iteration == config.iterations
    a, b = (checkpoint.load(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert same(a["weights"], b["weights"])
    assert a["history"] == b["history"]
    assert (a["averaged"] is None) == (config.ema == 0)
    if config.ema:
        assert same(a["averaged"], b["averaged"])
        assert not same(a["averaged"], a["weights"])


def test_time_limit(dataset: Path, tmp_path: Path) -> None:
    outcome = make_trainer(dataset, tmp_path, time_limit=0.0).run()
    assert (outcome.iteration, outcome.stopped, outcome.signal) == (0, "by the time limit", 0)
    assert checkpoint.load(tmp_path / LAST)["iteration"] == 0


def test_accumulation_has_the_gradients_of_the_whole_batch(dataset: Path, tmp_path: Path) -> None:
    """Without batch norm, whose statistics are those of a part."""
    ended = []
    for accumulate in (1, 2, 4):
        trainer = make_trainer(
            dataset, tmp_path / str(accumulate), accumulate=accumulate,
            config=dataclasses.replace(CONFIG, class_weights="median-frequency"),
        )  # fmt: skip
        trainer._step.eval()
        trainer.model.train = lambda mode=True, model=trainer.model: model  # type: ignore[method-assign]
        trainer.run()
        ended.append(trainer.model.state_dict())
    for other in ended[1:]:
        for key, value in ended[0].items():
            torch.testing.assert_close(other[key], value, rtol=1e-8, atol=1e-10)


def test_parts_without_any_pixel_that_counts() -> None:
    model = TinyModel(dropout=0.0).eval()
    step = TrainingStep(model)
    images = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    labels = torch.full((2, 16, 16), 255, dtype=torch.uint8)
    assert weight_of(labels, None) == 0
    step(images, labels, torch.eye(3, 4).repeat(2, 1, 1), 0.0).backward()
    assert all((p.grad == 0).all() for p in model.parameters())


def test_weight_of_is_the_divisor_of_the_mean() -> None:
    labels = torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    labels[0, :3] = 255
    weights = torch.tensor([0.5, 2.0, 1.0])
    expected = weights[labels[labels != 255].long()].sum().item()
    assert weight_of(labels, weights) == pytest.approx(expected)
    assert weight_of(labels, None) == 2 * 64 - 24


def test_inputs_are_those_of_preprocess() -> None:
    model = TinyModel()
    images = torch.randint(0, 256, (2, 16, 20, 3), dtype=torch.uint8)
    x = TrainingStep(model).inputs(images, torch.eye(3, 4).repeat(2, 1, 1))
    torch.testing.assert_close(x, model.preprocess(images))
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_autocast_does_not_round_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TinyModel()
    seen = []
    monkeypatch.setattr(model, "loss", lambda x, *_, **__: seen.append(x) or x.mean())
    images = torch.randint(0, 256, (2, 16, 20, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        TrainingStep(model)(images, torch.zeros(2, 16, 20), torch.eye(3, 4).repeat(2, 1, 1))
    torch.testing.assert_close(seen[0], model.preprocess(images))


def test_diverging_is_said(dataset: Path, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, tmp_path)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(math.inf)
    with pytest.raises(TrainingError, match="step 1: try a lower learning rate"):
        trainer.run()
    assert not (tmp_path / LAST).exists()


def test_what_does_not_fit_is_said(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="batch of 4"):
        make_trainer(dataset, tmp_path, accumulate=3)
    trainer = make_trainer(dataset, tmp_path)
    trainer.save()
    last = tmp_path / LAST
    other = make_trainer(dataset, tmp_path, config=dataclasses.replace(CONFIG, lr=0.5, seed=6))
    with pytest.raises(
        checkpoint.CheckpointError, match=r"lr is 0\.5, was 0\.01; seed is 6, was 5"
    ):
        other.resume(last)
    data = last.read_bytes()
    for content, words in ((data[: len(data) // 2], "truncated"), (b"no", "not a checkpoint")):
        last.write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=words) as caught:
            trainer.resume(last)
        assert str(last) in str(caught.value)
    torch.save({"weights": {}}, last)
    with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint"):
        trainer.resume(last)
    checkpoint.save(last, {"weights": {}})
    with pytest.raises(checkpoint.CheckpointError, match="not written by this version"):
        trainer.resume(last)


def test_schedule() -> None:
    config = TrainConfig(iterations=100, lr=2.0, warmup=9, power=0.9)
    assert learning_rate(config, 0) == pytest.approx(0.2)
    assert learning_rate(config, 50) == pytest.approx(2 * 0.5**0.9)
    assert learning_rate(config, 99) == pytest.approx(2 * 0.01**0.9)
    rates = [learning_rate(config, i) for i in range(100)]
    assert max(rates) == pytest.approx(rates[9], rel=0.01)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_spares_norms_and_biases(name: str) -> None:
    model = TinyModel()
    optimizer = make_optimizer(model, TrainConfig(iterations=1, optimizer=name, weight_decay=0.1))
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
    assert all(p.dim() == 4 for p in decayed["params"])


def test_average_follows_the_weights() -> None:
    model = TinyModel()
    averaged = Averaged(model, decay=0.9)
    start = averaged.model.layers[0].weight.clone()
    with torch.no_grad():
        model.layers[0].weight.add_(1.0)
        model.layers[1].running_mean.add_(2.0)
    averaged.update(iteration=1000)
    torch.testing.assert_close(averaged.model.layers[0].weight, start + 0.1)
    torch.testing.assert_close(averaged.model.layers[1].running_mean, torch.full((12,), 0.2))
    averaged.update(iteration=0)  # the decay is 1 / 10 at first
    torch.testing.assert_close(averaged.model.layers[0].weight, start + 0.91)


def test_class_weights_of_camvid(shared_data: Path) -> None:
    """Median-frequency weights of the train split, as its description holds them."""
    root = shared_data / "camvid"
    meta = json.loads((root / "meta.json").read_text())
    split = read(root, "train", cache_bytes=0)
    weights = class_weights(split, "median-frequency")
    assert weights is not None
    assert weights.tolist() == pytest.approx(meta["median_frequency_weights_train"], abs=5e-5)
    root_weights = class_weights(split, "sqrt-frequency")
    torch.testing.assert_close(root_weights, weights.sqrt())
    assert class_weights(split, "none") is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"iterations": 0}, "iterations"),
        ({"scale": (2.0, 1.0)}, "scale"),
        ({"ema": 1.0}, "ema"),
        ({"optimizer": "lbfgs"}, "adamw, sgd"),
        ({"class_weights": "x"}, "median-frequency"),
        ({"crop": (0, 8)}, "crop"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_config_errors(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        dataclasses.replace(CONFIG, **change)


def test_parts_are_equal() -> None:
    from fastseg.data import Batch

    batch = Batch(torch.arange(8).view(4, 2), torch.arange(4), torch.zeros(4, 3, 4))
    pieces = parts(batch, 2)
    assert [piece.labels.tolist() for piece in pieces] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("loss", ["dice", "ce+0.5*dice"])
def test_other_losses(dataset: Path, tmp_path: Path, loss: str) -> None:
    config = dataclasses.replace(CONFIG, loss=loss, class_weights="sqrt-frequency")
    trainer = make_trainer(dataset, tmp_path, config=config)
    trainer.run()
    losses = trainer.history.losses
    assert losses[-1] < losses[0]


def test_losses_that_do_not_fit(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loss is 'cee'"):
        dataclasses.replace(CONFIG, loss="cee")
    with pytest.raises(TrainingError, match="bce is of one class and the model has 3"):
        make_trainer(dataset, tmp_path, config=dataclasses.replace(CONFIG, loss="bce+dice"))


def test_a_configuration_from_before_there_were_losses() -> None:
    stored = CONFIG.as_json()
    del stored["loss"]
    assert TrainConfig.from_json(stored) == CONFIG
