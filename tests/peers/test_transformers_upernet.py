"""UPerNet with a Swin against transformers' with the same weights, and mmsegmentation's names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fastseg
from fastseg.models import SegmentationModel, UPerNet
from fastseg.nn.dot_product import DropPath
from fastseg.testing import relative_error
from fastseg.testing.peers import declare_torchvision_ops

STAGES = ["stage1", "stage2", "stage3", "stage4"]
# Of SwinConfig.
BACKBONES: dict[str, dict[str, Any]] = {
    "window-4": {"depths": [2, 2, 2, 1], "window_size": 4, "mlp_ratio": 2.0},
    "window-7-4-bands": {"depths": [1, 2, 1, 2], "window_size": 7, "num_channels": 4},
}
each_backbone = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=list(BACKBONES))


@pytest.fixture(scope="session")
def transformers() -> Any:
    declare_torchvision_ops()
    return pytest.importorskip("transformers")


def still(model: nn.Module) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | DropPath):
            module.p = 0.0
    return model.eval()


def made(transformers: Any, backbone: dict[str, Any], **options: Any) -> Any:
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        embed_dim=16, num_heads=[1, 2, 4, 8], drop_path_rate=0.0, out_features=STAGES, **backbone
    )
    config = transformers.UperNetConfig(
        backbone_config=swin, hidden_size=24, num_labels=5, auxiliary_channels=8, **options
    )
    model = transformers.UperNetForSemanticSegmentation(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=0.1 if parameter.dim() > 1 else 1.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return still(model)


def images(backbone: dict[str, Any], size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, backbone.get("num_channels", 3), *size)


@each_backbone
def test_features_and_logits(transformers: Any, backbone: dict[str, Any], tmp_path: Path) -> None:
    """Of the folder, and of the names of version 4 (its file) and 5 (in memory)."""
    theirs = made(transformers, backbone)
    theirs.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"never uses, and are dropped: encoder\.norm"):
        in_memory = fastseg.load_checkpoint(theirs.state_dict())
    of_file = fastseg.load_checkpoint(tmp_path / "model.safetensors")
    of_folder = SegmentationModel.from_pretrained(tmp_path)
    assert type(of_folder) is UPerNet and of_folder.config()["psp_bins"] == [1, 2, 3, 6]
    for size in ((64, 96), (65, 93)):
        for dtype, most in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            x = images(backbone, size).to(dtype)
            theirs.to(dtype)
            with torch.no_grad():
                levels = theirs.backbone.forward_with_filtered_kwargs(x).feature_maps
                expected = theirs(x).logits
                for ours in (in_memory, of_file, of_folder):
                    still(ours.to(dtype))
                    for one, other in zip(ours.encoder(x)[2:], levels, strict=True):
                        assert relative_error(one, other) <= most
                    assert relative_error(ours(x), expected) <= most
                    assert torch.equal(ours.predict_labels(x), ours(x).argmax(1).byte())


@each_backbone
def test_loss_and_gradients(transformers: Any, backbone: dict[str, Any], tmp_path: Path) -> None:
    theirs = made(transformers, backbone)
    theirs.save_pretrained(tmp_path)
    ours = still(SegmentationModel.from_pretrained(tmp_path))
    theirs.double().train(), ours.double().train()
    x = images(backbone, (64, 80)).double().requires_grad_()
    target = torch.randint(0, 5, (2, 64, 80))
    target[:, :9, 5:20] = 255
    expected = theirs(x, labels=target).loss
    expected.backward()
    expected_x, x.grad = x.grad, None
    loss = ours.loss(x, target)
    loss.backward()
    assert relative_error(loss, expected) <= 1e-10
    assert relative_error(x.grad, expected_x) <= 1e-7
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    inner = "encoder.layers.0.blocks.0.attention.relative_position_bias"
    truth = theirs.get_parameter(f"backbone.swin.{inner}.relative_position_bias_table").grad
    assert relative_error(ours.encoder.get_parameter(table).grad, truth) <= 1e-7
    truth = theirs.get_parameter("auxiliary_head.convs.0.conv.weight").grad
    assert relative_error(ours.get_parameter("auxiliary_head.0.weight").grad, truth) <= 1e-7


def convnext(transformers: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    backbone = transformers.ConvNextConfig(
        depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32], out_features=STAGES, **options
    )
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=24, num_labels=5, auxiliary_channels=8
    )
    model = transformers.UperNetForSemanticSegmentation(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=0.1 if parameter.dim() > 1 else 1.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return still(model)


def test_convnext(transformers: Any, tmp_path: Path) -> None:
    """Features, logits, loss and gradients, of the folder and of the state dict."""
    pytest.importorskip("timm")
    theirs = convnext(transformers, num_channels=4)
    theirs.save_pretrained(tmp_path)
    of_file = fastseg.load_checkpoint(theirs.state_dict())
    of_folder = SegmentationModel.from_pretrained(tmp_path)
    for size in ((64, 96), (65, 93)):
        for dtype, most in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            x = torch.randn(2, 4, *size, dtype=dtype)
            theirs.to(dtype)
            with torch.no_grad():
                levels = theirs.backbone.forward_with_filtered_kwargs(x).feature_maps
                expected = theirs(x).logits
                for ours in (of_file, of_folder):
                    ours.to(dtype)
                    for one, other in zip(ours.encoder(x)[2:], levels, strict=True):
                        assert relative_error(one, other) <= most
                    assert relative_error(ours(x), expected) <= most
    theirs.double().train(), still(of_folder.double()).train()
    x = torch.randn(2, 4, 64, 64, dtype=torch.float64)
    target = torch.randint(0, 5, (2, 64, 64))
    expected = theirs(x, labels=target).loss
    expected.backward()
    loss = of_folder.loss(x, target)
    loss.backward()
    assert relative_error(loss, expected) <= 1e-10
    for ours, name in (
        ("encoder.model.stem_0.weight", "backbone.embeddings.patch_embeddings.weight"),
        ("encoder.norms.2.weight", "backbone.hidden_states_norms.stage3.weight"),
        ("auxiliary_head.0.weight", "auxiliary_head.convs.0.conv.weight"),
    ):
        truth = theirs.get_parameter(name).grad
        assert relative_error(of_folder.get_parameter(ours).grad, truth) <= 1e-7


@pytest.mark.parametrize("kind", ["swin", "convnext"])
def test_folders_that_transformers_reads_back(transformers: Any, kind: str, tmp_path: Path) -> None:
    if kind == "convnext":
        pytest.importorskip("timm")
        theirs = convnext(transformers)
    else:
        theirs = made(transformers, BACKBONES["window-4"])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = SegmentationModel.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours", library="transformers")
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    model, info = again
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    x = torch.randn(1, 3, 65, 64)
    with torch.no_grad():
        assert relative_error(still(model)(x).logits, theirs(x).logits) <= 1e-6
        assert relative_error(ours(x), theirs(x).logits) <= 1e-5
    for given, match in (
        ({"align_corners": True}, "align_corners is True, it has False"),
        ({"encoder_depth": 4}, "encoder_depth is 4, it has 5"),
    ):
        other = UPerNet("swin_t", encoder_weights=None, **{"align_corners": False, **given})
        with pytest.raises(ValueError, match=match):
            other.save_pretrained(tmp_path / "other", library="transformers")


def test_convnext_of_mmsegmentation(transformers: Any, tmp_path: Path) -> None:
    """mmpretrain's names of the encoder, mmsegmentation's of the head."""
    pytest.importorskip("timm")
    convnext(transformers).save_pretrained(tmp_path)
    ours = SegmentationModel.from_pretrained(tmp_path)
    rules = (
        (r"^encoder\.model\.stem_([01])\.", r"backbone.downsample_layers.0.\1."),
        (r"^encoder\.model\.stages_(\d)\.downsample\.", r"backbone.downsample_layers.\1."),
        (r"^encoder\.model\.stages_(\d)\.blocks\.", r"backbone.stages.\1."),
        (r"^encoder\.norms\.(\d)\.", r"backbone.norm\1."),
        (r"\.conv_dw\.", ".depthwise_conv."),
        (r"\.mlp\.fc([12])\.", r".pointwise_conv\1."),
    )
    weights = {}
    for key, value in ours.state_dict().items():
        name = key
        if key.startswith("encoder."):
            for pattern, replacement in rules:
                name = re.sub(pattern, replacement, name)
        else:
            name = mmseg_name(key)
        weights[name] = (
            value[..., None, None] if "pointwise" in name and value.dim() == 2 else value
        )
    loaded = fastseg.load_checkpoint({"state_dict": weights})
    assert type(loaded) is UPerNet and loaded._arguments["decoder_dropout"] == 0.1
    x = torch.randn(1, 3, 65, 93)
    with torch.no_grad():
        assert torch.equal(loaded(x), ours(x))


def test_without_auxiliary_head(transformers: Any, tmp_path: Path) -> None:
    theirs = made(transformers, BACKBONES["window-4"], use_auxiliary_head=False)
    theirs.save_pretrained(tmp_path)
    ours = SegmentationModel.from_pretrained(tmp_path)
    x = images({}, (64, 64))
    with torch.no_grad():
        assert ours.auxiliary_head is None
        assert relative_error(ours(x), theirs(x).logits) <= 1e-5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"patch_size": 2}, "backbone_config.patch_size is 2, only 4 is known"),
        (
            {"model_type": "beit"},
            "backbone_config.model_type is beit, only swin and convnext are known",
        ),
        ({"out_features": ["stage4"]}, "backbone_config.out_features is"),
    ],
)
def test_folders_that_do_not_fit(
    transformers: Any, change: dict[str, Any], match: str, tmp_path: Path
) -> None:
    import json

    made(transformers, BACKBONES["window-4"]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    content["backbone_config"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(match)):
        SegmentationModel.from_pretrained(tmp_path)


# Ours -> mmsegmentation's, in this order.
MMSEG = (
    (r"^encoder\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^encoder\.layers\.", "backbone.stages."),
    (r"^encoder\.", "backbone."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^decoder\.psp\.blocks\.(\d)\.1\.", r"decode_head.psp_modules.\1.1."),
    (r"^decoder\.psp\.out_conv\.", "decode_head.bottleneck."),
    (r"^decoder\.fusion_block\.", "decode_head.fpn_bottleneck."),
    (r"^segmentation_head\.0\.", "decode_head.conv_seg."),
    (r"^auxiliary_head\.4\.", "auxiliary_head.conv_seg."),
    (r"^auxiliary_head\.([01])\.", r"auxiliary_head.convs.0.\1."),
)


def mmseg_name(key: str) -> str:
    if found := re.match(r"decoder\.fpn_(lateral|conv)_blocks\.(\d)\.(?:conv_norm_relu\.)?", key):
        kind = f"{found[1]}_convs" if found[1] == "lateral" else "fpn_convs"
        key = f"decode_head.{kind}.{2 - int(found[2])}.{key[found.end() :]}"
    for pattern, name in MMSEG:
        key = re.sub(pattern, name, key)
    if "decode_head" in key or "auxiliary" in key:
        key = re.sub(r"\.0\.(weight|bias)$", r".conv.\1", key)
        key = re.sub(r"\.1\.(weight|bias|running_\w+|num_\w+)$", r".bn.\1", key)
    return key


def test_the_first_codes_checkpoint(transformers: Any, tmp_path: Path) -> None:
    """Swin's own segmentation code: its encoder has our names, its head mmsegmentation's."""
    made(transformers, BACKBONES["window-4"]).save_pretrained(tmp_path)
    ours = SegmentationModel.from_pretrained(tmp_path)
    weights = {
        f"backbone.{key.removeprefix('encoder.')}"
        if key.startswith("encoder.")
        else mmseg_name(key): v
        for key, v in ours.state_dict().items()
    }
    weights["backbone.layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    with pytest.warns(UserWarning, match="never uses, and are dropped"):
        loaded = fastseg.load_checkpoint({"state_dict": weights})
    x = images({}, (65, 93))
    with torch.no_grad():
        assert torch.equal(loaded(x), ours(x))


def test_mmsegmentations_checkpoint(transformers: Any, tmp_path: Path) -> None:
    """A merging of patches is an nn.Unfold there: each channel has its four neighbours in a row."""
    made(transformers, BACKBONES["window-4"]).save_pretrained(tmp_path)
    ours = SegmentationModel.from_pretrained(tmp_path)
    weights = {}
    for key, value in ours.state_dict().items():
        if "downsample" in key:
            rows_first = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
            value = rows_first.transpose(-1, -2).flatten(-2)
        weights[mmseg_name(key)] = value
    weights["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(16, 16)
    assert "decode_head.lateral_convs.0.conv.weight" in weights
    assert "decode_head.psp_modules.3.1.bn.running_mean" in weights
    assert "auxiliary_head.convs.0.conv.weight" in weights
    # What nn.Unfold of a map gives, in its order, with these weights is what ours gives.
    x = torch.randn(1, 4, 4, 16)
    merging = ours.encoder.layers[0].downsample
    patches = torch.nn.functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    prefix = "backbone.stages.0.downsample."
    norm = (weights[f"{prefix}norm.weight"], weights[f"{prefix}norm.bias"])
    normed = torch.nn.functional.layer_norm(patches, (64,), *norm)
    expected = normed @ weights[f"{prefix}reduction.weight"].T
    torch.testing.assert_close(merging(x).flatten(1, 2), expected)
    with pytest.warns(UserWarning, match="never uses, and are dropped"):
        loaded = fastseg.load_checkpoint({"state_dict": weights})
    assert type(loaded) is UPerNet and loaded._arguments["decoder_dropout"] == 0.1
    x = images({}, (65, 93))
    with torch.no_grad():
        assert torch.equal(loaded(x), ours(x))
