"""load_checkpoint: what it accepts, and what it says of files it cannot use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import fastseg
from fastseg.models import TFDeepLabMobileNetV2

WIDTHS = (8, 12, 12, 8, 8, 8, 16, 16, 16, 16, 12, 12, 12, 20, 20, 20, 24)


@pytest.fixture(scope="module")
def model() -> TFDeepLabMobileNetV2:
    return TFDeepLabMobileNetV2(5, in_channels=4, stem=6, widths=WIDTHS, expansion=3, head=10)


@pytest.fixture
def file(model: TFDeepLabMobileNetV2, tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


def assert_same(loaded: torch.nn.Module, model: torch.nn.Module) -> None:
    assert type(loaded) is type(model)
    assert not loaded.training
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


def test_structure_comes_from_the_tensors(file: Path, model: TFDeepLabMobileNetV2) -> None:
    loaded = fastseg.load_checkpoint(file)
    assert_same(loaded, model)
    assert len(loaded.classes) == 5
    assert_same(fastseg.load_checkpoint(str(file)), model)
    assert_same(fastseg.load_checkpoint(model.state_dict()), model)


def test_the_model_does_not_share_memory_with_the_state_dict(model: TFDeepLabMobileNetV2) -> None:
    state_dict = model.state_dict()
    loaded = fastseg.load_checkpoint(state_dict)
    assert loaded.stem.weight.data_ptr() != state_dict["stem.weight"].data_ptr()


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_wrapped_by_training_programs(
    model: TFDeepLabMobileNetV2, tmp_path: Path, wrapper: str, prefix: str
) -> None:
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, wrapper: weights}, tmp_path / "training.pt")
    assert_same(fastseg.load_checkpoint(tmp_path / "training.pt"), model)


LIGHTNING = (
    "model.",
    "net.",
    "module.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "model._orig_mod.",
    "model._orig_mod.module.",
    "lit.net.module.",
    "_forward_module.model.",
)


@pytest.mark.parametrize("prefix", LIGHTNING)
@pytest.mark.parametrize("family", ["tf", "smp"])
def test_the_module_around_the_model_is_left_out(
    model: TFDeepLabMobileNetV2, prefix: str, family: str
) -> None:
    """Lightning, DDP and torch.compile, one inside the other: the common prefix goes."""
    inner: torch.nn.Module = model
    if family == "smp":
        inner = fastseg.DeepLabV3("resnet18", encoder_weights=None, classes=3).eval()
    weights = {prefix + key: value for key, value in inner.state_dict().items()}
    content = {"state_dict": weights, "epoch": 3, "optimizer_states": [], "loops": {"fit": {}}}
    assert_same(fastseg.load_checkpoint(content), inner)


def test_modules_inside_the_model_are_compiled_or_sharded(model: TFDeepLabMobileNetV2) -> None:
    weights = {
        key.replace("blocks.3.", "blocks.3._orig_mod.").replace(
            "stem.", "_fsdp_wrapped_module.stem._checkpoint_wrapped_module."
        ): value
        for key, value in model.state_dict().items()
    }
    assert_same(fastseg.load_checkpoint({f"net.{k}": v for k, v in weights.items()}), model)


@pytest.mark.parametrize("prefix", ["model.", "net.module.", "_orig_mod.model."])
def test_tensors_beside_the_model_are_dropped_by_name(
    model: TFDeepLabMobileNetV2, prefix: str
) -> None:
    """Loss weights, metrics, a second head: nothing is left out without a word."""
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    beside = {"loss.pos_weight": torch.ones(5), "val_metrics.confmat": torch.ones(5, 5)}
    with pytest.warns(UserWarning, match=r"2 others are dropped: loss\.pos_weight, val_m"):
        loaded = fastseg.load_checkpoint({"state_dict": {**beside, **weights}})
    assert_same(loaded, model)


def test_one_of_several_models_is_asked_for(model: TFDeepLabMobileNetV2) -> None:
    weights = {
        f"{name}.{key}": value
        for name in ("student", "teacher")
        for key, value in model.state_dict().items()
    }
    with pytest.raises(ValueError, match=r"holds 2 models, under student\., teacher\."):
        fastseg.load_checkpoint(weights)


def test_names_that_become_the_same_are_refused(model: TFDeepLabMobileNetV2) -> None:
    weights = {**model.state_dict(), "module.stem.bias": torch.ones(6)}
    with pytest.raises(ValueError, match=r"two tensors are called stem\.bias"):
        fastseg.load_checkpoint(weights)


def test_the_message_about_a_missing_tensor_has_the_name_inside(
    model: TFDeepLabMobileNetV2,
) -> None:
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    del weights["model.aspp0.bias"]
    with pytest.raises(ValueError, match=r"missing: aspp0\.bias"):
        fastseg.load_checkpoint({"state_dict": weights})


def test_formats_are_told_apart_by_content(model: TFDeepLabMobileNetV2, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "old", _use_new_zipfile_serialization=False)
    assert_same(fastseg.load_checkpoint(tmp_path / "old"), model)
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(model.state_dict(), tmp_path / "new")
    assert_same(fastseg.load_checkpoint(tmp_path / "new"), model)


def test_half_precision_weights_become_float32(model: TFDeepLabMobileNetV2, tmp_path: Path) -> None:
    torch.save(model.half().state_dict(), tmp_path / "half.pth")
    model.float()
    loaded = fastseg.load_checkpoint(tmp_path / "half.pth")
    assert loaded.stem.weight.dtype is torch.float32
    assert_same(loaded, model)


def test_every_missing_and_unused_tensor_is_named(model: TFDeepLabMobileNetV2) -> None:
    state_dict = model.state_dict()
    del state_dict["blocks.3.expand.bias"], state_dict["logits.weight"]
    state_dict["head.extra"] = torch.ones(1)
    state_dict["blocks.17.project.weight"] = torch.ones(1)
    with pytest.raises(ValueError) as error:
        fastseg.load_checkpoint(state_dict)
    message = str(error.value)
    assert "missing: blocks.3.expand.bias, logits.weight" in message
    assert "unused: head.extra, blocks.17.project.weight" in message


@pytest.mark.parametrize(
    ("key", "shape", "match"),
    [
        ("aspp0.bias", (3,), r"aspp0.bias \(3,\) \(expected \(10,\)\)"),
        ("blocks.5.depthwise.weight", (24, 1, 5, 5), r"blocks.5.depthwise.weight \(24, 1, 5, 5\)"),
        ("blocks.1.expand.weight", (20, 8, 1, 1), "blocks.1.expand.weight"),
        ("stem.weight", (6,), "shapes of its tensors fit no"),
        ("blocks.4.project.weight", (), "shapes of its tensors fit no"),
    ],
)
def test_misshapen_tensors_are_named(
    model: TFDeepLabMobileNetV2, key: str, shape: tuple[int, ...], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        fastseg.load_checkpoint({**model.state_dict(), key: torch.ones(shape)})


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.ones(3), None])
def test_no_state_dict(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: holds no state dict"):
        fastseg.load_checkpoint(tmp_path / "other.pth")


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match=r"no known family .*; it has 2 tensors.*fc.weight"):
        fastseg.load_checkpoint({"fc.weight": torch.ones(1), "fc.bias": torch.ones(1)})


def test_whole_models_are_not_unpickled(model: TFDeepLabMobileNetV2, tmp_path: Path) -> None:
    torch.save(model, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: holds Python objects.*state_dict"):
        fastseg.load_checkpoint(tmp_path / "model.pth")


def damaged(data: bytes) -> list[bytes]:
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x10  # amid the weights, where only a checksum can tell
    return [
        b"",
        b"PK",
        data[:100],
        data[: len(data) // 2],
        data[:-1],
        data[50:],
        bytes(flipped),
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"not a checkpoint at all",
        os.urandom(999),
        bytes(999),
    ]


@pytest.mark.parametrize("case", range(11))
def test_damaged_files_give_one_clear_error(file: Path, case: int) -> None:
    file.write_bytes(damaged(file.read_bytes())[case])
    with pytest.raises(ValueError) as error:
        fastseg.load_checkpoint(file)
    message = str(error.value)
    assert message.startswith(str(file))
    assert "\n" not in message
    assert len(message) < len(str(file)) + 200


@pytest.mark.parametrize("kept", [7, 9, 500, -1])
def test_truncated_safetensors(model: TFDeepLabMobileNetV2, tmp_path: Path, kept: int) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(model.state_dict(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"weights\.safetensors: "):
        fastseg.load_checkpoint(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fastseg.load_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("encoder", ["vgg11", "swin_t", "mit_b0"])
@pytest.mark.parametrize("name", ["UPerNet", "SegFormer"])
def test_the_levels_of_a_decoder_tell_the_encoders_depth(
    name: str, encoder: str, depth: int
) -> None:
    """Its channels would not: VGG has 512 at three strides."""
    small = {"vgg11": {}, "swin_t": {"width": 16, "heads": (1, 2, 4, 8)}, "mit_b0": {}}[encoder]
    channels = "decoder_channels" if name == "UPerNet" else "decoder_segmentation_channels"
    options = {channels: 8, "classes": 3, "encoder_depth": depth, "encoder_options": small}
    model = getattr(fastseg, name)(encoder, encoder_weights=None, **options).eval()
    loaded = fastseg.load_checkpoint(model.state_dict())
    assert_same(loaded, model)
    assert loaded.encoder.depth == depth


def test_a_depth_that_the_channels_do_not_tell_is_said_to_be_a_guess() -> None:
    """Of a VGG the stages that are there tell some of it, and encoder_depth the rest."""
    models = {d: fastseg.PSPNet("vgg11", encoder_depth=d, encoder_weights=None) for d in (3, 5)}
    for depth, model in models.items():
        if depth == 3:
            assert fastseg.load_checkpoint(model.state_dict()).encoder.depth == 3
            continue
        with pytest.warns(UserWarning, match="512 channels after 3, 4, 5 halvings: 3 are taken"):
            assert fastseg.load_checkpoint(model.state_dict()).encoder.depth == 3
        with pytest.warns(UserWarning, match="pass encoder_depth"):
            loaded = fastseg.load_checkpoint(model.state_dict(), encoder_depth=5)
        assert_same(loaded, model.eval())
