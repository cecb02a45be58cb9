"""Segment Anything is transformers' SamModel, on random weights and every kind of prompt."""

from __future__ import annotations

import pytest
import torch

from fastseg.sam import SAM, load_sam
from fastseg.sam.checkpoints import from_state_dict, official_names
from fastseg.sam.model import SIZES
from fastseg.testing.peers import declare_torchvision_ops

declare_torchvision_ops()
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def peer():
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 128,
        "global_attn_indexes": [1],
        "window_size": 3,
        "output_channels": 32,
        "num_pos_feats": 16,
        "mlp_dim": 48,
    }
    prompts = {"hidden_size": 32, "image_size": 128, "mask_input_channels": 8}
    decoder = {
        "hidden_size": 32,
        "mlp_dim": 40,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": 24,
        "iou_head_depth": 4,
    }
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    for part in (config, config.vision_config):
        part._attn_implementation = "sdpa"  # eager attention has a float32 softmax
    model = transformers.SamModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name or "layer_norm" in name:
                p.add_(torch.randn_like(p) * 0.2)
            elif "vision" in name:
                p.normal_(std=0.05)
    return model.double()  # of float32 values, which our files keep


def _ours(peer):
    return from_state_dict(peer.state_dict(), config=peer.config.to_dict()).double()


def _prompts(kind: str, count: int = 4) -> dict[str, torch.Tensor]:
    places = (torch.rand(1, count, 3, 2, dtype=torch.float64) * 128).round()
    labels = torch.randint(0, 2, (1, count, 3))
    labels[0, -1, -1] = -10
    boxes = torch.rand(1, count, 4, dtype=torch.float64) * 128
    points = {"input_points": places, "input_labels": labels}
    return {
        "points": points,
        "boxes": {"input_boxes": boxes},
        "points and boxes": {**points, "input_boxes": boxes},
        "a point and a mask": {
            "input_points": places[:, :1],
            "input_labels": labels[:, :1],
            "input_masks": torch.randn(1, 1, 32, 32, dtype=torch.float64),
        },
    }[kind]


def _decoded(model, embedding, prompts, several: bool):
    points = prompts.get("input_points")
    boxes = prompts.get("input_boxes")
    sparse, dense = model.prompt_encoder(
        None if points is None else (points[0], prompts["input_labels"][0]),
        None if boxes is None else boxes[0],
        prompts.get("input_masks"),
    )
    return model.mask_decoder(
        embedding, model.prompt_encoder.get_dense_pe(), sparse, dense, several
    )


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_names_and_shapes_of_published_sizes(size):
    shape = SIZES[size]
    vision = {
        "hidden_size": shape["channels"],
        "num_hidden_layers": shape["depth"],
        "num_attention_heads": shape["heads"],
        "global_attn_indexes": shape["global_layers"],
    }
    with torch.device("meta"):
        theirs = transformers.SamModel(transformers.SamConfig(vision_config=vision)).state_dict()
        ours = SAM(size).state_dict()
    named = official_names(theirs)
    assert {k: v.shape for k, v in named.items()} == {k: v.shape for k, v in ours.items()}


def test_the_image_encoder(peer):
    ours = _ours(peer)
    x = torch.randn(2, 3, 128, 128, dtype=torch.float64)
    theirs = peer.vision_encoder(x).last_hidden_state
    torch.testing.assert_close(ours.image_encoder(x), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("several", [True, False], ids=["several", "one"])
@pytest.mark.parametrize("kind", ["points", "boxes", "points and boxes", "a point and a mask"])
def test_prompts_and_decoder(peer, kind, several):
    ours = _ours(peer)
    embedding = torch.randn(1, 32, 8, 8, dtype=torch.float64)
    prompts = _prompts(kind)
    expected = peer(image_embeddings=embedding, multimask_output=several, **prompts)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            masks, iou = _decoded(ours, embedding, prompts, several)
        torch.testing.assert_close(masks[None], expected.pred_masks, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(iou[None], expected.iou_scores, rtol=1e-9, atol=1e-10)


def test_gradients(peer):
    ours = _ours(peer)
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    prompts = _prompts("points")
    peer.zero_grad()
    peer(pixel_values=x, **prompts).pred_masks.square().mean().backward()
    masks, _ = _decoded(ours, ours.image_encoder(x), prompts, True)
    masks.square().mean().backward()
    gradients = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    expected = from_state_dict(
        {k: gradients.get(k, torch.zeros_like(v)) for k, v in peer.state_dict().items()},
        config=peer.config.to_dict(),
    ).state_dict()
    largest = max(g.norm() for g in gradients.values())
    compared = 0
    for name, p in ours.named_parameters():
        if p.grad is not None:
            error = (p.grad - expected[name].double()).norm()
            assert error <= 1e-6 * expected[name].norm() + 1e-9 * largest, name
            compared += 1
    assert compared > 60


def test_masks_of_the_processor(peer):
    ours = _ours(peer)
    low = torch.randn(4, 3, 32, 32) * 3
    ours.float()
    processor = (
        transformers.SamImageProcessorPil
        if hasattr(transformers, "SamImageProcessorPil")
        else transformers.SamImageProcessor
    )
    processor = processor(size={"longest_edge": 128}, pad_size={"height": 128, "width": 128})
    for original, resized in (((60, 90), (85, 128)), ((200, 131), (128, 84))):
        (expected,) = processor.post_process_masks(
            [low], torch.tensor([original]), torch.tensor([resized])
        )
        got = ours.postprocess_masks(low, resized, original) > 0
        assert torch.equal(got, expected.bool())


def test_a_folder_of_transformers(peer, tmp_path):
    pytest.importorskip("safetensors")
    peer.save_pretrained(tmp_path)
    ours = load_sam(tmp_path).double()
    embedding = torch.randn(1, 32, 8, 8, dtype=torch.float64)
    prompts = _prompts("boxes")
    with torch.no_grad():
        masks, _ = _decoded(ours, embedding, prompts, True)
        expected = peer(image_embeddings=embedding, **prompts).pred_masks
    torch.testing.assert_close(masks[None], expected, rtol=1e-5, atol=1e-5)
