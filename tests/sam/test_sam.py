"""Segment Anything: shapes, prompts, altered layers, gradients, the predictor."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from fastseg.sam import SAM, SamPredictor, load_sam, sam_model_registry
from fastseg.sam.mask_decoder import TokenAttention

ROOT = Path(__file__).resolve().parents[2]


def _model(dtype: torch.dtype = torch.float64) -> SAM:
    torch.manual_seed(1)
    model = SAM("tiny", decoder={"hidden": 64}).to(dtype).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                p.normal_(std=0.3)
    return model


def _prompts(model: SAM, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    places = torch.rand(count, 2, 2, dtype=torch.float64) * 128
    return model.prompt_encoder((places, torch.randint(0, 2, (count, 2))), None, None)


@pytest.mark.parametrize("shape", [(3, 7, 40), (1, 7, 40), (3, 5, 1)], ids=str)
def test_reassociated_attention_is_attention(shape):
    count, tokens, pixels = shape
    attention = TokenAttention(32, 4, shrink=2).double()
    few = torch.randn(count, tokens, 32, dtype=torch.float64)
    placed, image = torch.randn(2, 1, pixels, 32, dtype=torch.float64)
    expected = attention(few, placed, image)
    torch.testing.assert_close(attention.of_image(few, placed, image), expected)
    other = torch.randn_like(few)
    expected = attention(placed, other, few)
    torch.testing.assert_close(attention.of_tokens(placed, other, few), expected)


def test_an_altered_projection_is_called():
    attention = TokenAttention(16, 2).double()
    few = torch.randn(2, 3, 16, dtype=torch.float64)
    image = torch.randn(1, 9, 16, dtype=torch.float64)
    calls = []
    attention.k_proj.register_forward_hook(lambda *_: calls.append(1))
    attention.of_image(few, image, image)
    attention.of_tokens(image, few, few)
    assert len(calls) == 2

    class Adapter(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(x)

    attention.v_proj = Adapter(attention.v_proj)
    torch.testing.assert_close(
        attention.of_image(few, image, image), attention(few, image, image), rtol=0, atol=0
    )


def test_altered_upscaling_is_called():
    model = _model()
    embedding = torch.randn(1, 256, 8, 8, dtype=torch.float64)
    sparse, dense = _prompts(model)
    inputs = (embedding, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
    expected, _ = model.mask_decoder(*inputs)
    calls = []
    model.mask_decoder.output_upscaling[3].register_forward_hook(lambda *_: calls.append(1))
    masks, _ = model.mask_decoder(*inputs)
    assert len(calls) == 1
    torch.testing.assert_close(masks, expected)


def test_prompts_one_by_one_are_prompts_together():
    """Without gradients a few go at a time; with them, all at once."""
    model = _model()
    embedding = torch.randn(1, 256, 8, 8, dtype=torch.float64)
    sparse, dense = _prompts(model, 6)
    places = model.prompt_encoder.get_dense_pe()
    together = model.mask_decoder(embedding, places, sparse, dense, True)
    with torch.no_grad():
        apart = model.mask_decoder(embedding, places, sparse, dense, True)
        own = model.mask_decoder(embedding, places, sparse, dense.clone(), True)
    for a, b, c in zip(together, apart, own, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


def test_no_prompts_give_no_masks():
    model = _model()
    with torch.no_grad():
        sparse, dense = _prompts(model, 0)
        masks, iou = model.mask_decoder(
            torch.randn(1, 256, 8, 8, dtype=torch.float64),
            model.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            True,
        )
    assert masks.shape == (0, 3, 32, 32) and iou.shape == (0, 3)


def test_gradients_through_encoder_and_decoder():
    model = _model()
    image = 255 * torch.rand(3, 128, 96, dtype=torch.float64)
    given = {"image": image, "original_size": (64, 48), "boxes": torch.tensor([[3.0, 4, 50, 60]])}
    (result,) = model([given], multimask_output=False)
    assert result["masks"].shape == (1, 1, 64, 48) and result["masks"].dtype == torch.bool
    result["low_res_logits"].square().mean().backward()
    parameter = model.image_encoder.blocks[0].attn.rel_pos_h
    slope = parameter.grad[3, 2].item()
    with torch.no_grad():
        values = []
        for step in (1e-5, -2e-5):
            parameter[3, 2] += step
            values.append(model([given], False)[0]["low_res_logits"].square().mean().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    parts = ("mask_downscaling", "point_embeddings.", "not_a_point", "iou_prediction_head")
    assert not [name for name in unused if not any(part in name for part in parts)]


def test_checkpointing_gives_the_same_gradients():
    model = _model()
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    model.image_encoder(x).sum().backward()
    expected = model.image_encoder.blocks[0].attn.qkv.weight.grad.clone()
    model.zero_grad()
    torch.utils.checkpoint.checkpoint(model.image_encoder, x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(model.image_encoder.blocks[0].attn.qkv.weight.grad, expected)


def test_the_encoder_in_one_graph():
    model = _model(torch.float32)
    x = torch.randn(1, 3, 128, 128)
    compiled = torch.compile(model.image_encoder, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model.image_encoder(x))


def test_bfloat16():
    model, wide = _model(torch.bfloat16), _model(torch.float32)
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        got, expected = model.image_encoder(x.bfloat16()).float(), wide.image_encoder(x)
    assert (got - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("size", [(60, 100), (128, 37), (5, 300)], ids=str)
def test_the_predictor(size):
    pytest.importorskip("PIL")
    predictor = SamPredictor(_model(torch.float32))
    image = numpy.random.default_rng(0).integers(0, 256, (*size, 3), dtype=numpy.uint8)
    predictor.set_image(image)
    point = {"point_coords": numpy.array([[3, 4]]), "point_labels": numpy.array([1])}
    masks, iou, low = predictor.predict(**point)
    assert masks.shape == (3, *size) and masks.dtype == bool
    assert iou.shape == (3,) and low.shape == (3, 32, 32)
    logits, _, _ = predictor.predict(**point, mask_input=low[:1], return_logits=True)
    assert logits.shape == (3, *size) and logits.dtype == numpy.float32
    one, _, _ = predictor.predict(box=numpy.array([1, 2, 30, 40]), multimask_output=False)
    assert one.shape == (1, *size)
    predictor.set_image(image[..., ::-1], "BGR")
    numpy.testing.assert_array_equal(predictor.predict(**point)[0], masks)


def test_the_predictor_in_bfloat16():
    pytest.importorskip("PIL")
    predictor = SamPredictor(_model(torch.bfloat16))
    predictor.set_image(numpy.full((40, 50, 3), 9, numpy.uint8))
    box = {"box": numpy.array([1, 2, 30, 40])}
    _, iou, low = predictor.predict(**box)
    masks, _, _ = predictor.predict(**box, mask_input=low[:1])
    assert low.dtype == iou.dtype == numpy.float32 and masks.shape == (3, 40, 50)


def test_errors_name_the_argument():
    predictor = SamPredictor(_model(torch.float32))
    with pytest.raises(RuntimeError, match="call set_image first"):
        predictor.predict(box=numpy.array([0, 0, 5, 5]))
    with pytest.raises(ValueError, match=r"image has shape \(4, 5\)"):
        predictor.set_image(numpy.zeros((4, 5), numpy.uint8))
    with pytest.raises(ValueError, match="image_format is 'GBR'"):
        predictor.set_image(numpy.zeros((4, 5, 3), numpy.uint8), "GBR")
    predictor.set_torch_image(torch.zeros(1, 3, 128, 128), (128, 128))
    with pytest.raises(ValueError, match="belong together"):
        predictor.predict_torch(torch.zeros(1, 1, 2), None, torch.zeros(1, 4))
    with pytest.raises(ValueError, match="allowed are 'vit_b'"):
        SAM("vit_x")
    with pytest.raises(ValueError, match="prompts differ in number"):
        predictor.model.prompt_encoder(
            (torch.zeros(2, 1, 2), torch.zeros(2, 1)), torch.zeros(3, 4), None
        )


def test_the_official_registry(tmp_path):
    with torch.device("meta"):
        model = sam_model_registry["vit_b"]()
    assert len(model.state_dict()) == 314 and not model.training
    assert sum(p.numel() for p in model.parameters()) == 93_735_472
    torch.save(_model(torch.float32).state_dict(), tmp_path / "sam.pth")
    with pytest.raises(ValueError, match="but size is 'vit_b'"):
        sam_model_registry["vit_b"](checkpoint=tmp_path / "sam.pth")


def test_files(tmp_path):
    model = _model(torch.float32)
    torch.save(model.state_dict(), tmp_path / "sam.pth")
    again = load_sam(tmp_path / "sam.pth")
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(again.image_encoder(x), model.image_encoder(x))
    with pytest.raises(ValueError, match="an encoder of 32 channels, but size is 'vit_b'"):
        load_sam(tmp_path / "sam.pth", "vit_b")
    with pytest.raises(ValueError, match="size is 'vit_x', allowed are"):
        load_sam(tmp_path / "sam.pth", "vit_x")
    for text, match in (("{", "damaged JSON"), ('{"vision_config": 3}', "vision_config is 3")):
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / "config.json").write_text(text)
        with pytest.raises(ValueError, match=match):
            load_sam(tmp_path / "folder")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: no Segment Anything"):
        load_sam(tmp_path / "other.pth")
    tensors = model.state_dict()
    del tensors["mask_decoder.iou_token.weight"]
    torch.save(tensors, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"mask_decoder\.iou_token\.weight is missing"):
        load_sam(tmp_path / "part.pth")


def test_the_program_of_the_docs_runs():
    pytest.importorskip("PIL")
    page = (ROOT / "docs" / "sam.md").read_text()
    programs = page.split("```python\n")[1:]
    space: dict[str, object] = {}
    for program in programs:
        exec(program.partition("```")[0], space)
    assert space["masks"].shape == (3, 60, 80)
