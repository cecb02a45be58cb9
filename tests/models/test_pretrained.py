"""save_pretrained, from_pretrained and checkpoints of the encoder-decoder models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fastseg
from fastseg.classes import VOC
from fastseg.models import DeepLabV3Plus, PSPNet, SegmentationModel

pytest.importorskip("safetensors")


def small(**arguments: object) -> DeepLabV3Plus:
    options = {"encoder_weights": None, "decoder_channels": 8, **arguments}
    return DeepLabV3Plus("mobilenet_v2", **options)


@pytest.fixture(scope="module")
def model() -> DeepLabV3Plus:
    return small(classes=VOC, encoder_output_stride=8, decoder_atrous_rates=(2, 4, 6)).eval()


def test_what_the_weights_do_not_tell(model: DeepLabV3Plus, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = fastseg.DeepLabV3Plus.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.classes == VOC
    assert loaded.size_step == 8
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert config["_model_class"] == "DeepLabV3Plus"
    assert config["classes"] == 21
    assert config["decoder_atrous_rates"] == [2, 4, 6]
    assert config["encoder_weights"] is None


def test_half_precision_weights_become_float32(model: DeepLabV3Plus, tmp_path: Path) -> None:
    small().half().save_pretrained(tmp_path)
    loaded = SegmentationModel.from_pretrained(tmp_path)
    assert all(p.dtype is torch.float32 for p in loaded.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < 7e6


def test_files_are_written_whole_or_not_at_all(
    model: DeepLabV3Plus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object, **__: object) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        small(classes=3).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_arguments_that_no_file_can_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"activation is .*config\.json"):
        small(activation=torch.nn.Sigmoid).save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"_model_class": "UNet3"}, r"_model_class is 'UNet3', allowed are .*DeepLabV3Plus"),
        ({"_model_class": None}, "_model_class is null"),
        ({"decoder_channels": 16}, r"does not fit DeepLabV3Plus; shapes: decoder.*expected \(16"),
        ({"encoder_name": "vgg"}, r"config\.json: fits no DeepLabV3Plus .*'vgg'"),
        ({"colour": 1}, r"config\.json: colour is not known, allowed are encoder_name"),
    ],
)
def test_configs_that_do_not_fit(
    model: DeepLabV3Plus, tmp_path: Path, change: dict[str, object], match: str
) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=match):
        SegmentationModel.from_pretrained(tmp_path)


def test_folders_that_are_incomplete(model: DeepLabV3Plus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: is not there"):
        SegmentationModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="_model_class is 'DeepLabV3Plus', allowed are PSPNet"):
        PSPNet.from_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:999])
    with pytest.raises(ValueError, match=r"model\.safetensors: truncated or damaged"):
        SegmentationModel.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: is not there"):
        SegmentationModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: truncated or damaged"):
        SegmentationModel.from_pretrained(tmp_path)


def test_hub(model: DeepLabV3Plus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    model.save_pretrained(tmp_path)
    asked = []

    def snapshot(repository: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        if repository != "someone/model":
            raise OSError("404\nnot found")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    loaded = SegmentationModel.from_pretrained("someone/model", revision="v1")
    assert loaded.config() == model.config()
    assert asked == [("someone/model", "v1")]
    with pytest.raises(ValueError, match=r"^no/such: is no folder, and .*OSError: 404\)"):
        SegmentationModel.from_pretrained("no/such")


def test_checkpoints_name_what_is_wrong(model: DeepLabV3Plus) -> None:
    state_dict = model.state_dict()
    del state_dict["segmentation_head.0.bias"], state_dict["encoder.features.3.conv.2.weight"]
    state_dict["decoder.extra"] = torch.ones(1)
    with pytest.raises(ValueError) as error:
        fastseg.load_checkpoint(state_dict)
    message = str(error.value)
    assert "missing: encoder.features.3.conv.2.weight, segmentation_head.0.bias" in message
    assert "unused: decoder.extra" in message
    state_dict = {k: v for k, v in model.state_dict().items() if "features.0.0" not in k}
    with pytest.raises(ValueError, match="its encoder is none of resnet18"):
        fastseg.load_checkpoint(state_dict)
    state_dict["encoder._conv_stem.weight"] = torch.ones(32, 3, 3, 3)
    with pytest.raises(ValueError, match=r"smp's EfficientNet, none of .* 'tu-efficientnet_b0'"):
        fastseg.load_checkpoint(state_dict)
    state_dict = {**model.state_dict(), "decoder.aspp.0.convs.0.0.weight": torch.ones(8, 7, 1, 1)}
    with pytest.raises(ValueError, match="reads 7 channels, mobilenet_v2 has"):
        fastseg.load_checkpoint(state_dict)


def test_arguments_out_of_range() -> None:
    for arguments, match in (
        ({"classes": 0}, "classes is 0"),
        ({"encoder_depth": 2}, "encoder_depth is 2, allowed are 3 to 5"),
        ({"encoder_output_stride": 32}, "encoder_output_stride is 32, allowed are 8 and 16"),
        ({"activation": "swish"}, "activation is 'swish'"),
        ({"aux_params": {"classes": 2, "pooling": "min"}}, "pooling is 'min'"),
    ):
        with pytest.raises(ValueError, match=match):
            small(**arguments)
    with pytest.raises(TypeError, match=r"classes is 2\.5, expected their number"):
        small(classes=2.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        small(colour="red")


CLASSES = {"names": ["a", "b"], "colors": [[0, 0, 0], [1, 2, 3]], "overlay_colors": [[0, 0, 0]] * 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_model_class": ["PSPNet"]}, "_model_class is a list of 1, allowed are"),
        ({"_model_class": {}}, "_model_class is an object of 0 entries, allowed are"),
        ({"_classes": None}, "_classes is null, expected an object"),
        ({"_classes": {}}, "_classes.names is missing"),
        ({"_classes": {**CLASSES, "names": [1, 2]}}, "_classes.names[0] is 1, expected text"),
        ({"_classes": {**CLASSES, "names": ["a"]}}, "_classes.colors has 2 colours"),
        ({"_classes": {**CLASSES, "colors": [[0, 0], [1, 1]]}}, "_classes.colors[0] is a list"),
        ({"_classes": {**CLASSES, "colors": [[0, 0, 256]]}}, "_classes.colors[0][2] is 256"),
        ({"_classes": {**CLASSES, "background": 2}}, "_classes.background is 2"),
        ({"_classes": {**CLASSES, "background": True}}, "_classes.background is true"),
        ({"_classes": CLASSES, "classes": 3}, "classes is 3, but _classes has 2"),
        ({"_mean": None}, "_mean is null, expected a list"),
        ({"_std": [0, 0, 0]}, "_std[0] is 0, expected a number above"),
        ({"_std": [1, 1]}, "_std has 2 numbers, expected one for each of 3 channels"),
        ({"_mean": [float("nan")] * 3}, "_mean[0] is nan"),
        ({"_mean": ["0", "0", "0"]}, "_mean[0] is '0', expected a number"),
        ({"_working_size": 0}, "_working_size is 0, expected a whole number"),
        ({"_working_size": 10**9}, "_working_size is 1000000000, expected"),
        ({"_working_size": 1.5}, "_working_size is 1.5, expected a whole number"),
        ({"classes": 10**9}, "classes is 1000000000, expected a whole number from 1 to 65536"),
        ({"classes": 0}, "classes is 0, expected"),
        ({"classes": None}, "classes is null, expected"),
        ({"classes": "21"}, "classes is '21', expected"),
        ({"classes": True}, "classes is true, expected"),
        ({"decoder_channels": "8"}, "decoder_channels is '8', expected a whole number"),
        ({"decoder_channels": 10**12}, "decoder_channels is 1000000000000, expected"),
        ({"decoder_channels": 8.0}, "decoder_channels is 8.0, expected"),
        ({"decoder_channels": -8}, "fits no DeepLabV3Plus"),
        ({"decoder_channels": 0}, "fits no DeepLabV3Plus|does not fit"),
        ({"in_channels": 1 << 24}, "shapes: encoder.features.0.0.weight"),
        ({"decoder_atrous_rates": 5}, "decoder_atrous_rates is 5, expected a list"),
        ({"decoder_atrous_rates": [1, None]}, "decoder_atrous_rates[1] is null"),
        ({"decoder_atrous_rates": [3] * 5000}, "decoder_atrous_rates is a list of 5000"),
        ({"decoder_atrous_rates": [3] * 4000}, "fits no DeepLabV3Plus (rates is"),
        ({"decoder_atrous_rates": [0, 0, 0]}, "config.json: fits no DeepLabV3Plus (rates is (0"),
        ({"decoder_atrous_rates": [-1, 2, 3]}, "config.json: fits no DeepLabV3Plus (rates is"),
        ({"decoder_fusions": 1 << 24}, "parameters, far more than its file"),
        ({"encoder_name": ["a"]}, "encoder_name is a list of 1, expected text"),
        ({"encoder_options": 3}, "encoder_options is 3, expected an object"),
        ({"aux_params": {"classes": -1}}, "fits no DeepLabV3Plus|does not fit"),
        ({"align_corners": "yes"}, "align_corners is 'yes', expected true or false"),
        ({"decoder_aspp_dropout": 7}, "fits no DeepLabV3Plus"),
    ],
)  # fmt: skip
def test_config_fields_that_do_not_fit(
    model: DeepLabV3Plus, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["_classes"]
    path.write_text(json.dumps({**config, "classes": 2, **change}))
    with pytest.raises(ValueError) as caught:
        SegmentationModel.from_pretrained(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and len(message.splitlines()) == 1
    assert len(message) < 1500
    assert any(word in message for word in words.split("|")), message


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("weights", ["left out", "imagenet", "../../secret.pt"])
def test_a_config_never_asks_for_other_weights(
    model: DeepLabV3Plus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    strict: bool,
) -> None:
    """config.json of somebody else: neither a download nor another file is read for the encoder."""
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["encoder_weights"]
    if weights != "left out":
        config["encoder_weights"] = weights
    (tmp_path / "config.json").write_text(json.dumps(config))

    def fail(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("fastseg.models.encoders.load_weights", fail)
    loaded = SegmentationModel.from_pretrained(tmp_path, strict=strict)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())


def test_grids_that_would_take_gigabytes(tmp_path: Path) -> None:
    PSPNet("mobilenet_v2", encoder_weights=None, psp_out_channels=8).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    for bins in ([1, 4000, 4000, 4000], [1, 0, 3, 6]):
        path.write_text(json.dumps({**json.loads(path.read_text()), "psp_bins": bins}))
        with pytest.raises(ValueError, match=r"config\.json: fits no PSPNet \(bins is"):
            SegmentationModel.from_pretrained(tmp_path)


def test_a_limit_can_be_raised(model: DeepLabV3Plus, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with fastseg.use_limits(classes=20), pytest.raises(ValueError, match="classes"):
        SegmentationModel.from_pretrained(tmp_path)
    with fastseg.use_limits(classes=21):
        assert SegmentationModel.from_pretrained(tmp_path).classes == VOC


def test_weights_that_are_whole_numbers(model: DeepLabV3Plus) -> None:
    weights = {**model.state_dict()}
    weights["segmentation_head.0.bias"] = torch.ones(21, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"not floating point: segmentation_head\.0\.bias is int64"
    ):
        fastseg.load_checkpoint(weights)
