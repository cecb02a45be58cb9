"""fastseg.fuse: the same function without batch norms, beside a model that stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from model_cases import CASES, ModelCase, each_model
from torch import nn

import fastseg
from fastseg.models import SegmentationModel
from fastseg.nn import Chain, DilatedConv2d


def labels_and_logits(model: SegmentationModel, x: torch.Tensor):
    with torch.no_grad():
        return model.predict_labels(x), model(x)


@each_model
def test_same_function_without_norms(case: ModelCase) -> None:
    model = case.model(training=True).double()
    before = copy.deepcopy(model.state_dict())
    fused = fastseg.fuse(model)
    assert type(fused) is type(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert not any(p.requires_grad for p in fused.parameters())
    # The model is untouched, and shares nothing with what was made of it.
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert not {p.data_ptr() for p in model.parameters()} & {
        p.data_ptr() for p in fused.parameters()
    }
    model.eval()
    for index in (0, 2):
        labels, logits = labels_and_logits(fused, x := case.images(index).double())
        expected_labels, expected = labels_and_logits(model, x)
        torch.testing.assert_close(logits, expected)
        assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_as_accurate_as_the_model(dtype: torch.dtype) -> None:
    """In a lower precision: against float64, not further away than unfused."""
    for case in CASES[:3]:
        model = case.model().to(dtype)
        # The format of fused weights; torch's convolutions round otherwise in the other one.
        x = case.images().to(dtype).contiguous(memory_format=torch.channels_last)
        truth = labels_and_logits(copy.deepcopy(model).double(), x.double())[1]
        errors = [
            (labels_and_logits(m, x)[1].double() - truth).norm().item()
            for m in (fastseg.fuse(model), model)
        ]
        assert errors[0] <= 1.5 * errors[1], case.name


@each_model
def test_under_autocast_and_with_gradients_to_the_image(case: ModelCase) -> None:
    model = case.model()
    fused = fastseg.fuse(model)
    x = case.images()
    with torch.autocast("cpu", torch.bfloat16):
        assert (fused.predict_labels(x) == model.predict_labels(x)).float().mean() > 0.8
    # In float64, where no rounding puts a value on the other side of a ReLU.
    model, x = model.double(), x.double()
    grads = [
        torch.autograd.grad(m(y).square().mean(), y)[0]
        for m, y in ((m, x.clone().requires_grad_()) for m in (fastseg.fuse(model), model))
    ]
    torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-9 * grads[1].abs().max().item())


def test_again_it_is_the_same_object() -> None:
    fused = fastseg.fuse(CASES[0].model())
    assert fastseg.fuse(fused) is fused
    assert fastseg.fuse(copy.deepcopy(fused)).eval().training is False


def test_refuses_what_needs_the_norms(tmp_path) -> None:
    fused = fastseg.fuse(CASES[0].model())
    with pytest.raises(ValueError, match=f"fused {type(fused).__name__}, which is for inference"):
        fused.train()
    with pytest.raises(ValueError, match="is fused"):
        fused.save_pretrained(tmp_path)


def layers() -> list[nn.Module]:
    return [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6()]


def scrambled(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.2, 2.0)
    return module.eval().double()


def assert_fused(module: nn.Module, norms_left: int) -> None:
    scrambled(module)
    fused = fastseg.fuse(module)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in fused.modules()) == norms_left
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), module(x))


def test_any_module() -> None:
    """Sequences inside sequences, plain and ours; what only looks like a chain is left."""

    class Beside(nn.Module):
        """Convolution and norm that do not follow each other."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(x) + self.conv(x)

    class Backwards(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for module in reversed(self):
                x = module(x)
            return x

    assert_fused(nn.Sequential(Beside(), nn.Sequential(*layers())), norms_left=1)
    assert_fused(Chain(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.Identity(), *layers()[1:]), 0)
    assert_fused(Chain(DilatedConv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3)), 0)
    assert_fused(Backwards(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), norms_left=1)
    assert_fused(Backwards(Backwards(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))), norms_left=1)
    assert_fused(nn.Sequential(nn.Conv2d(3, 4, 3, padding_mode="reflect"), *layers()[1:]), 1)


def test_leaves_what_is_used_twice_or_watched() -> None:
    twice = nn.Conv2d(3, 3, 1)
    assert_fused(nn.Sequential(twice, nn.BatchNorm2d(3), twice, nn.ReLU()), norms_left=1)
    seen = []
    watched = nn.Sequential(*layers())
    watched[0].register_forward_hook(lambda m, args, out: seen.append(out))
    assert_fused(watched, norms_left=1)
    inner = nn.Sequential(nn.Conv2d(3, 4, 1))
    inner.register_forward_hook(lambda m, args, out: seen.append(out))
    assert_fused(nn.Sequential(inner, nn.BatchNorm2d(4)), norms_left=1)
    assert len(seen) == 4


@pytest.mark.parametrize("name", ["deeplabv3plus", "pspnet-dilated", "unet"])
def test_in_bfloat16_the_early_layers_stay_as_they_are(name: str) -> None:
    """All others are rounded once, and images of either dtype are taken."""
    (case,) = (case for case in CASES if case.name == name)
    model = case.model()
    exact, fused = fastseg.fuse(model), fastseg.fuse(model, torch.bfloat16)
    early = {id(p) for layer in fused.encoder.early_layers() for p in layer.parameters()}
    assert len(early) > 1
    for key, weight in fused.named_parameters():
        assert weight.dtype is (torch.float32 if id(weight) in early else torch.bfloat16), key
        assert torch.equal(weight, exact.get_parameter(key).to(weight.dtype)), key
    x = case.images()
    with torch.no_grad():
        assert torch.equal(fused.encoder(fused.pad(x))[1], exact.encoder(exact.pad(x))[1])
    truth = labels_and_logits(exact, x)[1]
    labels, logits = labels_and_logits(fused, x)
    assert logits.dtype is torch.bfloat16
    assert (logits - truth).norm() < 0.02 * truth.norm()
    assert (labels == truth.argmax(1)).float().mean() > 0.98
    # All in one dtype again: it is taken from the weights.
    assert (
        labels_and_logits(copy.deepcopy(fused).float(), x)[1] - truth
    ).norm() < 0.02 * truth.norm()
    again = labels_and_logits(fused, x.bfloat16())
    assert torch.equal(again[1], labels_and_logits(fused, x.bfloat16().float())[1])


def test_any_module_in_another_dtype() -> None:
    model = scrambled(nn.Sequential(*layers(), nn.BatchNorm2d(4)))
    fused = fastseg.fuse(model, torch.float32)
    assert {t.dtype for t in fused.state_dict().values() if t.is_floating_point()} == {
        torch.float32
    }
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(fused(x.float()).double(), model(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"dtype is torch\.int8, expected a floating one"):
        fastseg.fuse(model, torch.int8)
    with pytest.raises(ValueError, match="dtype is bfloat16, expected a floating one"):
        fastseg.fuse(model, "bfloat16")
    with pytest.raises(TypeError, match=r"model is a int, expected a torch\.nn\.Module"):
        fastseg.fuse(3)
    with pytest.raises(ValueError, match=r"dtype is torch\.bfloat16, but it is too late"):
        fastseg.fuse(fused, torch.bfloat16)
