"""MaskFormer and Mask2Former of transformers: the exchanged attention, labels of masks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerate_cases import CASES, CLASSES, images, make, outputs

import fastseg
from fastseg.testing import relative_error

pytest.importorskip("scipy")  # transformers' MaskFormer and Mask2Former ask for it

ATTENTION = "model.pixel_level_module.decoder.encoder.layers.0.self_attn"


def swin(library: Any) -> Any:
    return library.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1] * 4,
        num_heads=[1, 1, 2, 4],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def mask2former(library: Any) -> Any:
    config = library.Mask2FormerConfig(
        backbone_config=swin(library),
        feature_size=32,
        mask_feature_size=16,
        hidden_dim=32,
        encoder_feedforward_dim=24,
        encoder_layers=2,
        decoder_layers=4,
        num_attention_heads=4,
        dim_feedforward=24,
        num_queries=6,
        num_labels=CLASSES,
    )
    return library.Mask2FormerForUniversalSegmentation(config)


def maskformer(library: Any) -> Any:
    decoder = library.DetrConfig(
        d_model=32, decoder_layers=1, encoder_layers=1, decoder_ffn_dim=24, num_queries=6
    )
    config = library.MaskFormerConfig(
        backbone_config=swin(library),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=16,
        num_labels=CLASSES,
    )
    return library.MaskFormerForInstanceSegmentation(config)


def pair(library: Any) -> tuple[Any, Any, Any]:
    """Mask2Former as it was, the same accelerated, and the report."""
    torch.manual_seed(0)
    theirs = mask2former(library).eval()
    for name, p in theirs.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights" in name:
            torch.nn.init.normal_(p, std=0.5)  # zero otherwise: places would not depend on x
    ours = copy.deepcopy(theirs)
    return theirs, ours, fastseg.accelerate(ours, image_size=None)


def tensors(output: Any) -> torch.Tensor:
    return torch.cat([output.class_queries_logits.flatten(), output.masks_queries_logits.flatten()])


def test_outputs_and_gradients_in_float64(peers: Any) -> None:
    theirs, ours, report = pair(peers("transformers"))
    assert [row.path for row in report.swapped] == [ATTENTION, ATTENTION.replace(".0.", ".1.")]
    assert not report.left
    theirs.double(), ours.double()
    x = images()
    results = []
    for model in (theirs, ours):
        leaf = x.clone().requires_grad_()
        result = tensors(model(leaf))
        (result @ torch.cos(torch.arange(len(result), dtype=torch.float64))).backward()
        results.append((result.detach(), leaf.grad))
    for expected, found in zip(*results, strict=True):
        assert relative_error(found, expected) <= 1e-11
    reached = 0
    for (name, ours_p), p in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (ours_p.grad is None) == (p.grad is None), name
        if p.grad is not None and p.grad.norm() > 1e-6:
            reached += ATTENTION in name
            assert relative_error(ours_p.grad, p.grad) <= 1e-8, name
    assert reached >= 6  # offsets, weights, value and output projections


def test_float32_attention_maps_and_restore(peers: Any) -> None:
    theirs, ours, _ = pair(peers("transformers"))
    x = images(torch.float32, batch=1)
    with torch.no_grad():
        expected = theirs(x, output_attentions=True)
        found = ours(x, output_attentions=True)
        assert relative_error(tensors(found), tensors(expected)) <= 1e-4
        with torch.autocast("cpu", torch.bfloat16):
            tensors(ours(x))
        fastseg.restore(ours)
        assert torch.equal(tensors(ours(x)), tensors(expected))
    assert type(ours.get_submodule(ATTENTION)) is type(theirs.get_submodule(ATTENTION))


def test_layers_inside_are_called(peers: Any) -> None:
    _, ours, _ = pair(peers("transformers"))
    calls: list[str] = []
    for name, layer in ours.get_submodule(ATTENTION).named_children():
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    with torch.no_grad():
        ours(images(torch.float32, batch=1))
    assert sorted(calls) == ["attention_weights", "output_proj", "sampling_offsets", "value_proj"]


def test_masked_cells_and_other_reference_points(peers: Any) -> None:
    theirs, ours, _ = pair(peers("transformers"))
    a, b = theirs.get_submodule(ATTENTION).double(), ours.get_submodule(ATTENTION).double()
    levels = [(2, 3), (4, 5), (3, 3)]
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    arguments: dict[str, Any] = {
        "encoder_hidden_states": draw(2, 35, 32),
        "attention_mask": draw(2, 35) > 0.5,
        "position_embeddings": draw(2, 7, 32),
        "spatial_shapes_list": levels,
    }
    queries = draw(2, 7, 32)
    for last in (2, 4):
        points = draw(2, 7, 3, last).sigmoid()
        expected = a(queries, reference_points=points, **arguments)
        found = b(queries, reference_points=points, **arguments)
        for one, other in zip(found, expected, strict=True):
            assert relative_error(one, other) <= 1e-13


@pytest.mark.parametrize("which", [maskformer, mask2former], ids=lambda f: f.__name__)
def test_labels_are_those_of_the_image_processor(peers: Any, which: Any) -> None:
    library = peers("transformers")
    torch.manual_seed(1)
    model = which(library).double().eval()
    x, sizes = images(), [(50, 70), (33, 20)]
    name = "MaskFormerImageProcessor" if which is maskformer else "Mask2FormerImageProcessor"
    process = getattr(library, name)().post_process_semantic_segmentation
    model.train()
    found = fastseg.predict_labels(model, x, sizes)
    assert model.training
    model.eval()
    with torch.no_grad():
        output = model(x)
        expected = process(output, target_sizes=sizes)
    for one, other, size in zip(found, expected, sizes, strict=True):
        assert one.dtype is torch.uint8 and one.shape == size
        assert torch.equal(one.long(), other)
    labels = fastseg.predict_labels(model, x)
    masks = torch.nn.functional.interpolate(output.masks_queries_logits, (64, 64), mode="bilinear")
    probabilities = output.class_queries_logits.softmax(2)[..., :-1]
    scores = torch.einsum("nqc,nqhw->nchw", probabilities, masks.sigmoid())
    assert torch.equal(labels.long(), scores.argmax(1))


def test_target_sizes_of_a_model_with_logits(peers: Any) -> None:
    library = peers("transformers")
    model = make(next(c for c in CASES if c.name == "transformers-segformer"), peers)
    model = model.double().eval()
    x, sizes = images(), [(50, 70), (33, 20)]
    found = fastseg.predict_labels(model, x, sizes)
    with torch.no_grad():
        process = library.SegformerImageProcessor().post_process_semantic_segmentation
        expected = process(model(x), target_sizes=sizes)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.long(), other)
    with pytest.raises(ValueError, match="target_sizes has 1 sizes, expected 2"):
        fastseg.predict_labels(model, x, sizes[:1])
    assert outputs(model(x)).numel() > 0


def crafted(library: Any, which: Any) -> tuple[Any, Any]:
    """A model whose output is given, and the output: sharp masks, classes that come again."""
    model = which(library).eval()
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn(2, 12, 4, 5, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (24, 30), mode="bicubic") * 12 - 10
    masks[:, 3] = -9.0  # nowhere
    masks[:, 4] = masks[:, 1]  # hidden behind another one
    logits = torch.randn(2, 12, CLASSES + 1, generator=generator) * 0.5
    for query, label in enumerate((0, 1, 0, 2, 1, 3, 2, CLASSES, 0, 1, 3, 2)):
        logits[0, query, label] += 5.0
    logits[1, :, CLASSES] += 9.0  # no object at all
    output = model(images(torch.float32))
    output["masks_queries_logits"], output["class_queries_logits"] = masks, logits
    model.forward = lambda *args, **options: output
    return model, output


@pytest.mark.parametrize("which", [maskformer, mask2former], ids=lambda f: f.__name__)
@pytest.mark.parametrize("sizes", [None, [(50, 70), (33, 20)]], ids=["own", "target"])
def test_segments_are_those_of_the_image_processor(peers: Any, which: Any, sizes: Any) -> None:
    library = peers("transformers")
    model, output = crafted(library, which)
    name = "MaskFormerImageProcessor" if which is maskformer else "Mask2FormerImageProcessor"
    process = getattr(library, name)()
    x = images(torch.float32)
    counts = []
    for fused in ((), (0, 2)):
        for overlap in (0.1, 0.7):
            found = fastseg.predict_panoptic(
                model, x, sizes, overlap_threshold=overlap, fused=fused, threshold=0.4
            )
            expected = process.post_process_panoptic_segmentation(
                output, 0.4, 0.5, overlap, label_ids_to_fuse=set(fused), target_sizes=sizes
            )
            same_segments(found, expected)
            counts.append(len(found[0]["segments_info"]))
            assert found[1]["segments_info"] == []
    assert counts[0] > counts[1] > 0 and counts[2] == counts[0]
    for threshold in (0.2, 0.7):
        found = fastseg.predict_instances(model, x, sizes, threshold=threshold)
        expected = process.post_process_instance_segmentation(
            output, threshold=threshold, target_sizes=sizes
        )
        same_segments(found, expected)
        assert len(found[0]["segments_info"]) > 2


def same_segments(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one["segmentation"].dtype is torch.int32
        assert torch.equal(one["segmentation"], other["segmentation"].int())
        assert one["segments_info"] == other["segments_info"]


def test_models_without_queries_have_no_segments() -> None:
    model = torch.nn.Conv2d(3, 2, 1)
    for predict in (fastseg.predict_panoptic, fastseg.predict_instances):
        with pytest.raises(TypeError, match="masks of queries"):
            predict(model, torch.zeros(1, 3, 4, 4))
