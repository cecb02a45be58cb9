"""docs/losses.md: its programs run, its losses exist, its commands are known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fastseg import nn as fnn
from fastseg.testing.peers import declare_torchvision_ops

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
PACKAGES = ("pytorch_lightning", "segmentation_models_pytorch", "transformers")


def _run(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {"torch": torch}
    exec(compile(program, str(PAGE), "exec"), names)
    return names


def _program(word: str) -> str:
    (found,) = [program for program in PROGRAMS if word in program]
    return found


@pytest.mark.parametrize("at", range(len(PROGRAMS)))
def test_programs_run(at):
    declare_torchvision_ops()
    for package in PACKAGES:
        if f"import {package}" in PROGRAMS[at]:
            pytest.importorskip(package)
    names = _run(PROGRAMS[at])
    if "target" in names:
        loss = names["loss"]
        assert not isinstance(loss, torch.Tensor) or loss.isfinite()


def test_the_lightning_module_trains():
    declare_torchvision_ops()
    lightning = pytest.importorskip("pytorch_lightning")
    from fastseg import models

    torch.manual_seed(0)
    model = models.PSPNet(encoder_name="resnet18", encoder_weights=None, classes=3)
    segmenter = _run(_program("LightningModule"))["Segmenter"](model)
    before = [p.detach().clone() for p in model.parameters()]
    data = torch.utils.data.TensorDataset(
        torch.rand(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
    )
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(segmenter, torch.utils.data.DataLoader(data, batch_size=2))
    assert any((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


def test_transformers_trainer_trains(tmp_path):
    declare_torchvision_ops()
    transformers = pytest.importorskip("transformers")
    if not transformers.utils.is_accelerate_available():  # tests/accelerate has the same name
        pytest.skip("the library accelerate is not installed")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_labels=3, depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
    )  # fmt: skip
    model = transformers.SegformerForSemanticSegmentation(config)
    before = [p.detach().clone() for p in model.parameters()]
    names = _run(_program("transformers.Trainer"))
    item = {"pixel_values": torch.rand(3, 32, 32), "labels": torch.randint(0, 3, (32, 32))}
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[item, item],
        compute_loss_func=names["compute_loss"],
    )
    result = trainer.train()
    outputs = model(torch.rand(1, 3, 32, 32))
    assert outputs.logits.shape[2:] == (8, 8)  # the loss was of low-resolution logits
    assert torch.isfinite(torch.tensor(result.training_loss))
    assert any((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


def test_the_table_names_losses_with_their_options():
    rows = re.findall(r"^\| `(\w+)(?:\.(\w+))?\(([^)]*)\)`", TEXT, re.M)
    assert len(rows) >= 18
    for name, method, arguments in rows:
        make = getattr(fnn, name) if not method else getattr(getattr(fnn, name), method)
        options = eval(f"dict({arguments})", {})
        assert isinstance(make(**options), torch.nn.Module)


def test_every_loss_is_in_the_table():
    from fastseg.nn import losses

    names = {name for name in losses.__all__ if name.endswith(("Loss", "Entropy"))}
    for name in names - {"SumsLoss", "RegionLoss", "CombinedLoss"}:
        assert f"| `{name}" in TEXT, name


def test_texts_of_the_command_line_are_losses():
    line = re.search(r"--loss (\S+) +# or (.*)", TEXT)
    assert line is not None
    texts = [line[1], *re.findall(r"\b[\w.*]+(?:\+[\w.*]+)*\b", line[2].split(" for ")[0])]
    for text in texts:
        mode = "binary" if "bce" in text else "multiclass"
        assert isinstance(fnn.parse_loss(text, mode), fnn.CombinedLoss)
