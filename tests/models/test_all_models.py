"""What holds for every model: shapes, values, gradients, memory formats, dtypes, saving."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from model_cases import CASES, ModelCase, each_model
from torch.utils._python_dispatch import TorchDispatchMode

import fastseg
from fastseg.models import PSPNet, SegmentationModel
from fastseg.ops.upsample_conv2d import lowres

# Operations on maps (not on weights); the first tensor they return is a map.
ON_MAPS = (
    "convolution",
    "_convolution_pointwise",
    "_batch_norm_impl_index",
    "native_batch_norm",
    "relu_",
    "clamp_",
    "hardtanh_",
    "cat",
    "baddbmm",
    "convolution_backward",
    "_batch_norm_impl_index_backward",
    "native_batch_norm_backward",
    "dilated_conv2d",
    "dilated_conv2d_backward",
    "upsample_bilinear",
    "upsample_bilinear_backward",
)


class MapFormats(TorchDispatchMode):
    """Counts the maps that operations make, and notes those that are not channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.lost: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.split("::")[1]
        maps = result if isinstance(result, tuple) else (result,)
        if name in ON_MAPS and isinstance(maps[0], torch.Tensor) and maps[0].dim() == 4:
            batch, channels, height, width = maps[0].shape
            # Not the cells of a pyramid, nor the weights that spread them over the map.
            if batch == 2 and channels > 1 and height * width > 36:
                self.count += 1
                if not maps[0].is_contiguous(memory_format=torch.channels_last):
                    self.lost.append(f"{name} {tuple(maps[0].shape)}")
        return result


def expected_logits(model: SegmentationModel, x: torch.Tensor) -> torch.Tensor:
    """Full-resolution logits from the coarse ones, by the definition."""
    size = model.padded_size(x.shape[2], x.shape[3])
    padded = F.pad(x, (0, size[1] - x.shape[3], 0, size[0] - x.shape[2]), mode="replicate")
    coarse = model.coarse_logits(padded)
    out = F.interpolate(
        coarse, model.output_size(*size), mode="bilinear", align_corners=model.align_corners
    )
    height, width = model.output_size(x.shape[2], x.shape[3])
    return out[:, :, :height, :width]


def gradients(model: SegmentationModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@each_model
@pytest.mark.parametrize("index", range(3))
def test_forward_and_predict(case: ModelCase, index: int) -> None:
    model, x = case.model().double(), case.images(index).double()
    with torch.no_grad():
        truth = expected_logits(model, x)
        logits, labels = model(x), model.predict_labels(x)
    assert logits.shape == (2, len(model.classes), *model.output_size(*x.shape[2:]))
    torch.testing.assert_close(logits, truth)
    expected = truth.argmax(1) if len(model.classes) > 1 else (truth[:, 0] > 0)
    assert labels.dtype is torch.uint8
    assert (labels == expected).double().mean() > 0.999  # ties to rounding


@each_model
def test_no_gradient_mode_has_the_values_of_gradient_mode(case: ModelCase) -> None:
    """Folding batch norms changes nothing but the rounding."""
    model, x = case.model().double(), case.images().double()
    recorded = model(x)
    with torch.no_grad():
        folded = model(x)
    torch.testing.assert_close(folded, recorded.detach())


@each_model
def test_one_image_has_the_logits_that_it_has_in_a_batch(case: ModelCase) -> None:
    model, x = case.model().double(), case.images().double()
    with torch.no_grad():
        torch.testing.assert_close(model(x[1:]), model(x)[1:])


@each_model
def test_loss_is_cross_entropy_of_the_full_logits(case: ModelCase) -> None:
    """Also where images are padded, and the logits cropped."""
    model, x = case.model(training=True).double(), case.images(2).double()
    target = case.target(model, x)
    weight = torch.rand(max(2, len(model.classes)), dtype=torch.float64)
    options = {"weight": weight, "ignore_index": 255, "label_smoothing": 0.1}
    before = copy.deepcopy(model.state_dict())

    def full_loss() -> torch.Tensor:
        def cross_entropy(coarse: torch.Tensor) -> torch.Tensor:
            size = model.output_size(*model.padded_size(*x.shape[2:]))
            full = F.interpolate(coarse, size, mode="bilinear", align_corners=model.align_corners)[
                :, :, : target.shape[1], : target.shape[2]
            ]
            if full.shape[1] == 1:  # binary: against a logit of 0
                full = torch.cat([torch.zeros_like(full), full], dim=1)
            return F.cross_entropy(full, target, **options)

        main, auxiliary = model.training_logits(x)
        if auxiliary is None:
            return cross_entropy(main)
        others = auxiliary if isinstance(auxiliary, list) else [auxiliary]
        weight_of_others = model.auxiliary_weight
        return cross_entropy(main) + weight_of_others * sum(cross_entropy(y) for y in others)

    expected = full_loss()
    expected.backward()
    truth = gradients(model)
    model.zero_grad()
    model.load_state_dict(before)
    loss = model.loss(x, target, **options)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, truth[name], msg=name)


@each_model
def test_every_parameter_is_trained(case: ModelCase) -> None:
    model, x = case.model(training=True), case.images()
    model.loss(x, case.target(model, x)).backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@each_model
def test_what_is_computed_again_in_the_backward_changes_no_gradient(case: ModelCase) -> None:
    """A hook on every module makes a chain call them one after the other, as nn.Sequential."""
    model, x = case.model(training=True).double(), case.images().double()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        module.register_forward_hook(lambda *_: None)
    target = case.target(model, x)
    for m in (model, plain):
        m.loss(x, target).backward()
    truth = gradients(plain)
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, truth[name], msg=name)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=name)


@each_model
@pytest.mark.parametrize("mode", ["eval", "predict", "train"])
def test_channels_last_is_kept_at_every_stage(
    case: ModelCase, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where oneDNN has AVX2 only, dense convolutions that train go through NCHW: it is faster there.
    monkeypatch.setattr(lowres, "_slow_backward", lambda x, weight: False)
    model = case.model(training=mode == "train").to(memory_format=torch.channels_last)
    x = case.images().contiguous(memory_format=torch.channels_last)
    with MapFormats() as formats:
        if mode == "train":
            model.loss(x, case.target(model, x)).backward()
        elif mode == "predict":
            model.predict_labels(x)
        else:
            out = model(x)
            assert out.shape[1] == 1 or out.is_contiguous(memory_format=torch.channels_last)
    assert formats.count >= case.fewest_maps
    assert formats.lost == []


@each_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(case: ModelCase, dtype: torch.dtype) -> None:
    model, x = case.model(), case.images()
    with torch.no_grad():
        truth = model(x)
        model.to(dtype)
        half = model(x.to(dtype))
        assert model.predict_labels(x.to(dtype)).shape == half.shape[:1] + half.shape[2:]
    assert half.dtype is dtype
    assert (half.float() - truth).norm() / truth.norm() < (0.1 if dtype is torch.bfloat16 else 0.02)
    if dtype is torch.float16:  # emulated by the CPU, slowly
        return
    model.train()
    model.loss(x.to(dtype), case.target(model, x)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@each_model
def test_autocast(case: ModelCase) -> None:
    model, x = case.model(training=True), case.images()
    target = case.target(model, x)
    truth = model.loss(x, target)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(x, target)
    loss.backward()
    assert abs(float(loss.detach() / truth.detach()) - 1) < 0.1
    assert all(p.grad.dtype is torch.float32 for p in model.parameters())


@each_model
def test_the_same_bits_twice(case: ModelCase) -> None:
    model, x = case.model(training=True), case.images()
    target, results = case.target(model, x), []
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        model.load_state_dict(before)
        model.zero_grad()
        loss = model.loss(x, target)
        loss.backward()
        results.append((loss, gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(g, results[1][1][n]) for n, g in results[0][1].items())


@each_model
def test_saved_and_made_again(case: ModelCase, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model, x = case.model(), case.images(batch=1)
    model.working_size = 384
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    with torch.no_grad():
        truth = model(x)
        for loaded in (
            SegmentationModel.from_pretrained(tmp_path),
            type(model).from_pretrained(str(tmp_path)),
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
        ):
            assert type(loaded) is type(model)
            assert loaded.config() == model.config()
            assert loaded.working_size == 384
            assert torch.equal(loaded(x), truth)


@each_model
def test_the_state_dict_tells_the_model(case: ModelCase) -> None:
    model, x = case.model(), case.images()
    loaded = fastseg.load_checkpoint(model.state_dict())
    assert type(loaded) is type(model)
    assert list(loaded.state_dict()) == list(model.state_dict())
    if case.in_weights:
        with torch.no_grad():
            torch.testing.assert_close(loaded(x), model(x))


@each_model
def test_shapes_that_do_not_fit(case: ModelCase) -> None:
    model, x = case.model(training=True), case.images()
    target = case.target(model, x)
    with pytest.raises(ValueError, match=r"x has shape \(3, 64\)"):
        model(torch.randn(3, 64))
    with pytest.raises(TypeError, match=r"x has dtype torch\.uint8, expected floating point"):
        model(x.byte())
    with pytest.raises(TypeError, match="x is a ndarray"):
        model(x.numpy())
    with pytest.raises(ValueError, match=r"target has shape .* expected 3 dimensions"):
        model.loss(x, target[0])
    with pytest.raises(ValueError, match=r"target has shape .* expected \d+ x \d+ pixels"):
        model.loss(x, target[:, 1:])


@each_model
def test_one_image_in_training(case: ModelCase) -> None:
    """Where a pooled branch has a batch norm, it says what to do."""
    model, x = case.model(training=True), case.images(batch=1)
    target = case.target(model, x)
    if case.trains_on_one:
        model.loss(x, target).backward()
        return
    with pytest.raises(ValueError, match="larger batch, SyncBatchNorm"):
        model.loss(x, target)


def test_auxiliary_head_is_only_in_the_loss() -> None:
    model = PSPNet.dilated("resnet18", encoder_options={}, auxiliary_channels=8, classes=2)
    called = []
    model.auxiliary_head.register_forward_hook(lambda *_: called.append(True))
    x = torch.randn(2, 3, 65, 65)
    model(x)
    model.eval().predict_labels(x)
    assert not called
    model.loss(x, torch.zeros(2, 65, 65, dtype=torch.int64))
    assert called


def _gradient_penalty(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Squared length of the gradient of the summed squared logits to the image."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x).square().mean(), x, create_graph=True)
    return grad.square().sum()


@pytest.mark.parametrize("name", ["deeplabv2", "deeplabv3plus", "plain-unet", "pspnet-dilated"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients_of_gradients_are_those_of_plain_modules(name: str, training: bool) -> None:
    """Of the logits; with hooks on every module, chains call them one after the other."""
    case = next(case for case in CASES if case.name == name)
    model, x = case.model(training).double(), case.images().double()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        module.register_forward_hook(lambda *_: None)
    for m in (model, plain):
        _gradient_penalty(m, x).backward()
    ours, truth = gradients(model), gradients(plain)
    assert ours.keys() == truth.keys()
    for name, grad in ours.items():
        torch.testing.assert_close(grad, truth[name], msg=name)


def test_gradients_of_gradients_of_the_fused_loss_are_those_of_the_composition() -> None:
    case = next(case for case in CASES if case.name == "pspnet")
    model, x = case.model(training=True).double(), case.images().double()
    target = case.target(model, x)
    weights = [p for p in model.parameters() if p.requires_grad]

    def penalty(loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        total = sum(g.square().sum() for g in grads if g is not None)
        return torch.autograd.grad(total, weights, allow_unused=True)

    ours = penalty(model.loss(x, target))
    theirs = penalty(F.cross_entropy(model(x), target, ignore_index=255))
    torch.testing.assert_close(ours, theirs)
