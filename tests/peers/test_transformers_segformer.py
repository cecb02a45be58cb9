"""SegFormer against transformers' with the same weights: features, logits, loss, folders, names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from fastseg.classes import ClassSet
from fastseg.models import SegFormer, SegmentationModel
from fastseg.nn.dot_product import DropPath
from fastseg.testing import relative_error
from fastseg.testing.peers import declare_torchvision_ops

# Of SegformerConfig; small where it says so.
CONFIGS: dict[str, dict[str, Any]] = {
    "b0": {"num_labels": 5},
    "b1-4-bands-one-class": {
        "num_labels": 1,
        "num_channels": 4,
        "hidden_sizes": [64, 128, 320, 512],
    },
    "small": {
        "num_labels": 7,
        "num_channels": 1,
        "depths": [1, 2, 1, 1],
        "hidden_sizes": [8, 16, 40, 64],
        "decoder_hidden_size": 24,
        "sr_ratios": [4, 4, 2, 1],
        "mlp_ratios": [2, 3, 2, 4],
    },
    "other-heads": {
        "num_labels": 3,
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 24, 32],
        "num_attention_heads": [2, 1, 3, 4],
        "decoder_hidden_size": 16,
    },
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))


@pytest.fixture(scope="session")
def transformers() -> Any:
    declare_torchvision_ops()
    return pytest.importorskip("transformers")


def as_trained(model: nn.Module) -> Any:
    """Weights and statistics as after some training, and nothing random."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
            if module.bias is not None:
                nn.init.normal_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return still(model)


def still(model: nn.Module) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout | DropPath):
            module.p = 0.0
        elif type(module).__name__ == "SegformerDropPath":
            module.drop_prob = 0.0
    return model.eval()


def made(transformers: Any, config: dict[str, Any]) -> Any:
    made = transformers.SegformerConfig(**config)
    return as_trained(transformers.SegformerForSemanticSegmentation(made))


def pair(transformers: Any, config: dict[str, Any], folder: Path) -> tuple[Any, SegFormer]:
    theirs = made(transformers, config)
    theirs.save_pretrained(folder)
    return theirs, still(SegmentationModel.from_pretrained(folder))


def images(config: dict[str, Any], size: tuple[int, int] = (65, 93)) -> torch.Tensor:
    return torch.randn(2, config.get("num_channels", 3), *size)


@each_config
@pytest.mark.parametrize("size", [(64, 96), (65, 93), (71, 33)])
def test_features_and_logits(
    transformers: Any, config: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    theirs, ours = pair(transformers, config, tmp_path)
    x = images(config, size)
    for dtype, most in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        theirs.to(dtype), ours.to(dtype)
        for training in (False, True):
            theirs.train(training), ours.train(training)
            with torch.no_grad():
                expected = theirs(x.to(dtype), output_hidden_states=True)
                features = ours.encoder(ours.pad(x.to(dtype)))[2:]
                for ours_level, theirs_level in zip(features, expected.hidden_states, strict=True):
                    assert relative_error(ours_level, theirs_level) <= most
                assert relative_error(ours.coarse_logits(x.to(dtype)), expected.logits) <= most
    theirs.double(), ours.double()
    ours.decoder.fuse_stage[1].load_state_dict(theirs.decode_head.batch_norm.state_dict())
    full = F.interpolate(theirs.eval()(x.double()).logits, size, mode="bilinear")
    assert relative_error(ours.eval()(x.double()), full) <= 1e-10
    labels = full.argmax(1) if full.shape[1] > 1 else full[:, 0] > 0
    assert torch.equal(ours.predict_labels(x.double()), labels.byte())


@each_config
def test_loss_and_gradients(transformers: Any, config: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = (m.double().train() for m in pair(transformers, config, tmp_path))
    x = images(config).double().requires_grad_()
    target = torch.randint(0, max(2, config["num_labels"]), (2, *x.shape[2:]))
    target[:, :9, 5:20] = 255
    if config["num_labels"] > 1:
        expected = theirs(x, labels=target).loss
    else:  # transformers' mean of one class counts ignored pixels too
        logits = F.interpolate(theirs(x).logits, x.shape[2:], mode="bilinear")[:, 0]
        counts = target != 255
        expected = F.binary_cross_entropy_with_logits(logits[counts], target[counts].double())
    expected.backward()
    expected_x, x.grad = x.grad, None
    loss = ours.loss(x, target)
    loss.backward()
    assert relative_error(loss, expected) <= 1e-10
    assert relative_error(x.grad, expected_x) <= 1e-8
    grads = fastseg.load_checkpoint(
        {
            k: theirs.get_parameter(k).grad if k in dict(theirs.named_parameters()) else v
            for k, v in theirs.state_dict().items()
        },
        # Its heads are in no tensor.
        encoder_options=ours._arguments["encoder_options"],
    ).double()
    largest = max(float(p.grad.norm()) for p in ours.parameters())
    truth = {name: p.detach() for name, p in grads.named_parameters()}
    for name, parameter in ours.named_parameters():
        difference = float((parameter.grad - truth[name]).norm())  # float32 by load_checkpoint
        assert difference <= 1e-5 * max(float(truth[name].norm()), 1e-3 * largest), name


@each_config
def test_folders_are_exchanged(transformers: Any, config: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = pair(transformers, config, tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours", library="transformers")
    kind = transformers.SegformerForSemanticSegmentation
    back = kind.from_pretrained(tmp_path / "ours")
    x = images(config)
    with torch.no_grad():
        assert torch.equal(back(x).logits, theirs(x).logits)
    for name in (
        "depths",
        "hidden_sizes",
        "num_attention_heads",
        "sr_ratios",
        "mlp_ratios",
        "decoder_hidden_size",
        "classifier_dropout_prob",
        "drop_path_rate",
        "id2label",
        "num_channels",
    ):
        found, expected = getattr(back.config, name), getattr(theirs.config, name)
        assert json.dumps(found) == json.dumps(expected), name  # lists or tuples
    again = SegmentationModel.from_pretrained(tmp_path / "ours")
    assert again.config() == ours.config()
    with torch.no_grad():
        assert torch.equal(again(x), ours(x))


@pytest.mark.parametrize("version", [4, 5])
def test_names_of_both_versions(transformers: Any, version: int, tmp_path: Path) -> None:
    """Those of the file are version 4's, those in memory version 5's."""
    theirs = made(transformers, CONFIGS["small"])
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    ours = still(fastseg.load_checkpoint(file if version == 4 else theirs.state_dict()))
    x = images(CONFIGS["small"])
    with torch.no_grad():
        assert relative_error(ours.coarse_logits(x), theirs(x).logits) <= 1e-5


def test_classes_and_statistics(transformers: Any, tmp_path: Path) -> None:
    """Names, and what the image processor normalises with, there and back."""
    names = {0: "wall", 1: "sky", 2: "tree"}
    config = {
        **CONFIGS["small"],
        "num_channels": 3,
        "num_labels": 3,
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }
    theirs = made(transformers, config)
    theirs.save_pretrained(tmp_path / "theirs")
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.2]
    processor = transformers.SegformerImageProcessor(image_mean=mean, image_std=std)
    processor.save_pretrained(tmp_path / "theirs")
    ours = SegmentationModel.from_pretrained(tmp_path / "theirs")
    assert isinstance(ours.classes, ClassSet) and ours.classes.names == tuple(names.values())
    assert (ours.mean, ours.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    ours.save_pretrained(tmp_path / "ours", library="transformers")
    back = transformers.SegformerImageProcessor.from_pretrained(tmp_path / "ours")
    assert list(back.image_mean) == mean
    kind = transformers.SegformerForSemanticSegmentation
    assert kind.from_pretrained(tmp_path / "ours").config.id2label == names


def test_trained_for_other_classes(transformers: Any, tmp_path: Path) -> None:
    made(transformers, CONFIGS["small"]).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"not loaded.* segmentation_head\.0\.weight"):
        ours = SegmentationModel.from_pretrained(tmp_path, classes=2, strict=False)
    assert len(ours.classes) == 2
    with pytest.raises(ValueError, match=r"shapes: segmentation_head\.0\.weight"):
        SegmentationModel.from_pretrained(tmp_path, classes=2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden_act": "relu"}, r"hidden_act is relu, only gelu is known"),
        ({"patch_sizes": [3, 3, 3, 3]}, r"patch_sizes is \[3, 3, 3, 3\], only"),
        ({"model_type": "bert"}, r"model_type is 'bert', allowed are segformer, upernet"),
        ({"depths": "many"}, r"depths is 'many', expected"),
        ({"id2label": {"1": "a", "2": "b"}}, r"id2label does not number its 2 labels from 0"),
        ({"num_attention_heads": [3, 2, 5, 8]}, r"fits no SegFormer \(heads has 3"),
    ],
)
def test_folders_that_do_not_fit(
    transformers: Any, change: dict[str, Any], match: str, tmp_path: Path
) -> None:
    made(transformers, CONFIGS["small"]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=match) as error:
        SegmentationModel.from_pretrained(tmp_path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "align_corners is True"),
        ({"align_corners": False}, "norm_eps is not 1e-5"),
        ({"encoder_name": "resnet18"}, "encoder_name is 'resnet18', it has mit_b0"),
        ({"encoder_depth": 4}, "encoder_depth is 4, it has 5"),
        ({"decoder_normed": True}, "decoder_normed is True"),
    ],
)
def test_models_that_transformers_has_not(
    arguments: dict[str, Any], match: str, tmp_path: Path
) -> None:
    pytest.importorskip("safetensors")
    model = SegFormer(**{"encoder_name": "mit_b0", "encoder_weights": None, **arguments})
    with pytest.raises(ValueError, match=match):
        model.save_pretrained(tmp_path, library="transformers")
    with pytest.raises(ValueError, match="library is 'keras', allowed are 'fastseg' and"):
        model.save_pretrained(tmp_path, library="keras")
    with pytest.raises(ValueError, match="a PSPNet cannot be written for transformers"):
        fastseg.PSPNet("resnet18", encoder_weights=None).save_pretrained(
            tmp_path, library="transformers"
        )


class MmsegHead(nn.Module):
    """mmsegmentation's head, by its definition, over transformers' encoder."""

    def __init__(self, widths: list[int], channels: int, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv_module(width, channels) for width in widths)
        self.fusion_conv = _conv_module(len(widths) * channels, channels)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, levels: tuple[torch.Tensor, ...]) -> torch.Tensor:
        size = levels[0].shape[2:]
        maps = [conv(x) for conv, x in zip(self.convs, levels, strict=True)]
        maps = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps]
        return self.conv_seg(self.fusion_conv(torch.cat(maps, 1)))


def _conv_module(channels: int, out: int) -> nn.Sequential:
    module = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
    module._modules = dict(zip(("conv", "bn", "activate"), module, strict=True))
    return module


# transformers 5 -> mmsegmentation, inside a stage and inside a block.
MMSEG_STAGE = {
    "patch_embeddings.proj": "0.projection",
    "patch_embeddings.layer_norm": "0.norm",
    "layer_norm": "2",
}
MMSEG_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.sequence_reduction.sequence_reduction": "attn.sr",
    "attention.sequence_reduction.layer_norm": "attn.norm",
    "attention.o_proj": "attn.attn.out_proj",
    "mlp.fc1": "ffn.layers.0",
    "mlp.dwconv.dwconv": "ffn.layers.1",
    "mlp.fc2": "ffn.layers.4",
}


def mmseg_names(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The encoder's tensors as mmsegmentation's files have them."""
    result: dict[str, torch.Tensor] = {}
    state = encoder.state_dict()
    for key, value in state.items():
        _, stage, *rest = key.split(".")
        prefix, kind = f"backbone.layers.{stage}.", rest[-1]
        inner = ".".join(rest[:-1])
        if inner in MMSEG_STAGE:
            result[f"{prefix}{MMSEG_STAGE[inner]}.{kind}"] = value
            continue
        block, inner = rest[1], ".".join(rest[2:-1])
        if inner in MMSEG_BLOCK:
            linear = inner.startswith("mlp.fc") and kind == "weight"
            name = f"{prefix}1.{block}.{MMSEG_BLOCK[inner]}.{kind}"
            result[name] = value[:, :, None, None] if linear else value
        elif inner == "attention.q_proj":
            thirds = [state[key.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            result[f"{prefix}1.{block}.attn.attn.in_proj_{kind}"] = torch.cat(thirds)
    return result


def test_mmsegmentations_checkpoint(transformers: Any) -> None:
    config = transformers.SegformerConfig(**CONFIGS["small"])
    encoder = as_trained(transformers.SegformerModel(config))
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    head = as_trained(MmsegHead(config.hidden_sizes, 24, 6))
    weights = {
        **mmseg_names(encoder),
        **{f"decode_head.{key}": value for key, value in head.state_dict().items()},
    }
    ours = still(fastseg.load_checkpoint({"state_dict": weights, "meta": {}}))
    assert type(ours) is SegFormer and ours._arguments["decoder_normed"]
    for dtype, most in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        for module in (encoder, head, ours):
            module.to(dtype)
        x = images(CONFIGS["small"]).to(dtype)
        with torch.no_grad():
            levels = encoder(x, output_hidden_states=True).hidden_states
            for found, expected in zip(ours.encoder(x)[2:], levels, strict=True):
                assert relative_error(found, expected) <= most
            expected = F.interpolate(head(levels), x.shape[2:], mode="bilinear")
            assert relative_error(ours(x), expected) <= most
