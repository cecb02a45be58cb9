"""TensorFlow's mobile DeepLab: against recorded outputs of the trained model, and against a plain
writing of the network with random weights."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F

import fastseg
from fastseg.classes import VOC
from fastseg.models import TFDeepLabMobileNetV2

BACKENDS = ("native", "reference", None)
WIDTHS = (8, 12, 12, 8, 8, 8, 16, 16, 16, 16, 12, 12, 12, 20, 20, 20, 24)


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    path = shared_data / "deeplabv3_mnv2_05_voc"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def trained(folder: Path) -> TFDeepLabMobileNetV2:
    model = fastseg.load_checkpoint(folder / "deeplabv3_mnv2_05_voc.pth")
    assert isinstance(model, TFDeepLabMobileNetV2)
    return model


@pytest.fixture(scope="module")
def golden(folder: Path) -> dict[str, numpy.ndarray]:
    with numpy.load(folder / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def small() -> TFDeepLabMobileNetV2:
    """Random weights that keep the scale of the activations, so that ReLU6 clips both ways."""
    torch.manual_seed(0)
    model = TFDeepLabMobileNetV2(7, stem=8, widths=WIDTHS, head=16).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                fan_in = parameter[0].numel()
                parameter.normal_(0.0, (2.2 if "depthwise" in name else 1.4) / fan_in**0.5)
            else:
                parameter.normal_(0.0, 0.3)
    return model


def images(*shape: int) -> torch.Tensor:
    """Smooth images in -1..1: photographs are smooth, and noise averages to grey at stride 8."""
    coarse = torch.rand(shape[0], 3, 6, 6) * 2 - 1
    return F.interpolate(coarse, shape[1:], mode="bicubic").clamp(-1, 1)


def plain_forward(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network as its papers write it: the pooled branch is a map, the branches concatenated."""
    strides = (1, 2, 1, 2) + 13 * (1,)
    dilations = 7 * (1,) + 7 * (2,) + 3 * (4,)

    def convolution(name: str, x: torch.Tensor, **options: int) -> torch.Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    x = convolution("stem", x, stride=2, padding=1).clamp(0, 6)
    for index, (stride, dilation) in enumerate(zip(strides, dilations, strict=True)):
        block, y = f"blocks.{index}", x
        if index > 0:
            y = convolution(f"{block}.expand", y).clamp(0, 6)
        options = {"stride": stride, "padding": dilation, "dilation": dilation}
        y = convolution(f"{block}.depthwise", y, **options, groups=y.shape[1]).clamp(0, 6)
        y = convolution(f"{block}.project", y)
        x = x + y if y.shape == x.shape else y
    pooled = (
        convolution("image_pooling", F.adaptive_avg_pool2d(x, 1))
        .relu()
        .expand(-1, -1, *x.shape[2:])
    )
    x = torch.cat([pooled, convolution("aspp0", x).relu()], dim=1)
    return convolution("logits", convolution("concat_projection", x).relu())


def assert_same_labels(
    labels: torch.Tensor, truth: torch.Tensor, logits: torch.Tensor, tolerance: float
) -> None:
    """Equal except where the two largest of `logits` [N, C, H, W] differ by at most `tolerance`."""
    largest = logits.topk(2, dim=1).values
    decided = largest[:, 0] - largest[:, 1] > tolerance
    assert decided.double().mean() > 0.9
    assert torch.equal(labels.long()[decided], truth.long()[decided])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", range(3))
def test_recorded_outputs_are_reproduced(
    trained: TFDeepLabMobileNetV2,
    golden: dict[str, numpy.ndarray],
    index: int,
    backend: str | None,
    memory_format: torch.memory_format,
) -> None:
    x = trained.preprocess(golden[f"image_{index}"]).contiguous(memory_format=memory_format)
    truth = torch.from_numpy(golden[f"logits33_{index}"])[None]
    with torch.no_grad(), fastseg.use_backend(backend):
        logits, labels = trained.coarse_logits(x), trained.predict_labels(x)
    assert (logits - truth).abs().max() <= 1e-4
    upsampled = F.interpolate(truth.double(), (257, 257), mode="bilinear", align_corners=True)
    expected = torch.from_numpy(golden[f"argmax_{index}"])[None]
    # Two logits that are each off by 1e-4 can swap where they differ by no more than twice that.
    assert_same_labels(labels, expected, upsampled, tolerance=2e-4)


def test_full_resolution_logits_are_reproduced(
    trained: TFDeepLabMobileNetV2, golden: dict[str, numpy.ndarray]
) -> None:
    with torch.no_grad():
        logits = trained(trained.preprocess(golden["image_0"]))
    truth = torch.from_numpy(golden["logits_full_0"]).float().reshape(logits.shape)
    # The record is float16: half a unit in the last of its 11 bits.
    assert (logits - truth).abs().max() <= 1e-4 + 2**-11 * truth.abs().max()


def test_the_published_class_names(folder: Path) -> None:
    lines = (folder / "voc21_labels.txt").read_text().split("\n")
    names = tuple(line.strip() for line in lines if line.strip())
    assert names == VOC.names


@pytest.mark.parametrize("size", [(129, 129), (321, 257), (65, 193)])
@pytest.mark.parametrize("which", ["trained", "small"])
def test_other_sizes_agree_between_backends(
    which: str, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    x = images(2, *size)
    truth = plain_forward({k: v.double() for k, v in model.state_dict().items()}, x.double())
    # Random weights amplify rounding errors by far more than trained ones: float64 for them.
    dtype, tolerance = (torch.float32, 1e-4) if which == "trained" else (torch.float64, 1e-10)
    model, x = copy.deepcopy(model).to(dtype), x.to(dtype)
    upsampled = F.interpolate(truth, size, mode="bilinear", align_corners=True)
    for backend in BACKENDS:
        with torch.no_grad(), fastseg.use_backend(backend):
            logits, labels = model.coarse_logits(x), model.predict_labels(x)
        assert (logits - truth).abs().max() <= tolerance, backend
        assert_same_labels(labels, upsampled.argmax(1), upsampled, 2 * tolerance)


@pytest.mark.parametrize("size", [(1, 1), (50, 77), (64, 57)])
def test_any_size_is_padded_at_the_border_and_cropped(
    small: TFDeepLabMobileNetV2, size: tuple[int, int]
) -> None:
    height, width = size
    x = images(1, *size)
    padded = F.pad(x, (0, -(width - 1) % 8, 0, -(height - 1) % 8), mode="replicate")
    with torch.no_grad():
        full = small(x)
        assert full.shape == (1, 7, height, width)
        torch.testing.assert_close(full, small(padded)[:, :, :height, :width])
        assert small.predict_labels(x).shape == (1, height, width)
        assert_same_labels(small.predict_labels(x), full.argmax(1), full, tolerance=1e-4)


def test_channels_last_is_kept_through_the_network(small: TFDeepLabMobileNetV2) -> None:
    formats = {}

    def remember(name: str):
        def hook(module, arguments, result):
            shape = result.shape
            if shape[1] > 1 and shape[2] * shape[3] > 1:
                formats[name] = result.is_contiguous(memory_format=torch.channels_last)

        return hook

    handles = [
        module.register_forward_hook(remember(name))
        for name, module in small.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    x = images(2, 65, 81)
    try:
        with torch.no_grad():
            ours = small(x.contiguous(memory_format=torch.channels_last))
    finally:
        for handle in handles:
            handle.remove()
    assert len(formats) > 40
    assert all(formats.values()), [name for name, kept in formats.items() if not kept]
    assert ours.is_contiguous(memory_format=torch.channels_last)
    exact, x = copy.deepcopy(small).double(), x.double()
    with torch.no_grad():
        torch.testing.assert_close(exact(x.contiguous(memory_format=torch.channels_last)), exact(x))


def test_the_pooled_branch_is_never_a_map(small: TFDeepLabMobileNetV2) -> None:
    shapes = []
    handle = small.image_pooling.register_forward_hook(lambda *call: shapes.append(call[2].shape))
    try:
        with torch.no_grad():
            small.coarse_logits(images(2, 65, 65))
    finally:
        handle.remove()
    assert shapes == [(2, 16, 1, 1)]


def test_every_parameter_gets_the_gradient_of_the_plain_network(
    small: TFDeepLabMobileNetV2,
) -> None:
    model = TFDeepLabMobileNetV2(7, stem=8, widths=WIDTHS, head=16).double()
    model.load_state_dict(small.state_dict())
    x = images(2, 33, 41).double()
    weights = {k: v.clone().requires_grad_() for k, v in model.state_dict().items()}
    plain_forward(weights, x).square().mean().backward()
    model.coarse_logits(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert weights[name].grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, weights[name].grad, msg=name)


def test_compiles_to_one_graph(small: TFDeepLabMobileNetV2) -> None:
    x = images(1, 33, 33)
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), small(x))


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (33, 33), (240, 321), (600, 20)])
def test_segment_labels_every_pixel_of_the_photograph(
    small: TFDeepLabMobileNetV2, size: tuple[int, int]
) -> None:
    photo = numpy.random.default_rng(0).integers(0, 256, (*size, 3), dtype=numpy.uint8)
    labels = small.segment(photo, working_size=129)
    assert labels.shape == size
    assert labels.dtype is torch.uint8
    assert labels.max() < 7


def test_segment_at_the_working_size_is_predict_labels(small: TFDeepLabMobileNetV2) -> None:
    photo = numpy.random.default_rng(0).integers(0, 256, (65, 97, 3), dtype=numpy.uint8)
    labels = small.segment(photo, working_size=97)
    assert torch.equal(labels, small.predict_labels(small.preprocess(photo))[0])


def test_the_image_itself_is_left_alone(small: TFDeepLabMobileNetV2) -> None:
    photo = numpy.random.default_rng(0).integers(0, 256, (33, 33, 3), dtype=numpy.uint8)
    before = photo.copy()
    photo.flags.writeable = False
    x = small.preprocess(photo)
    torch.testing.assert_close(
        x, torch.from_numpy(before).permute(2, 0, 1)[None] / 127.5 - 1, rtol=0, atol=1e-6
    )
    kept = x.clone()
    small.predict_labels(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("name", "category"),
    [("Abyssinian_1", "cat"), ("american_bulldog_136", "dog"), ("great_pyrenees_177", "dog")],
)
def test_real_animals_are_found(
    trained: TFDeepLabMobileNetV2, shared_data: Path, name: str, category: str
) -> None:
    """Intersection over union with the drawn outline, border pixels (255) left out."""
    image_module = pytest.importorskip("PIL.Image")
    samples = shared_data / "samples"
    photo = numpy.asarray(image_module.open(samples / f"pet_{name}.jpg").convert("RGB"))
    truth = numpy.asarray(image_module.open(samples / f"pet_{name}_label.png"))
    found = trained.segment(photo).numpy() == VOC.names.index(category)
    animal, counted = truth > 0, truth != 255
    intersection = (found & animal & counted).sum()
    assert intersection / ((found | animal) & counted).sum() >= 0.8


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"widths": (8, 8)}, "widths has 2 numbers, expected 17"),
        ({"output_stride": 4}, "output_stride is 4"),
    ],
)
def test_wrong_arguments(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TFDeepLabMobileNetV2(7, **arguments)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_output_strides(output_stride: int) -> None:
    model = TFDeepLabMobileNetV2(3, stem=8, widths=WIDTHS, head=8, output_stride=output_stride)
    with torch.no_grad():
        assert model.coarse_logits(images(1, 65, 129)).shape == (
            1,
            3,
            64 // output_stride + 1,
            128 // output_stride + 1,
        )


@pytest.mark.parametrize(
    ("photo", "error", "match"),
    [
        (numpy.zeros((4, 4), numpy.uint8), ValueError, r"image has shape \(4, 4\)"),
        (numpy.zeros((4, 4, 4), numpy.uint8), ValueError, r"image has shape \(4, 4, 4\)"),
        (numpy.zeros((0, 4, 3), numpy.uint8), ValueError, r"image has shape \(0, 4, 3\)"),
        (numpy.zeros((2, 4, 4, 3), numpy.uint8), ValueError, r"image has shape \(2, 4, 4, 3\)"),
        (numpy.zeros((4, 4, 3), numpy.float32), TypeError, "image has dtype torch.float32"),
    ],
)
def test_segment_says_what_is_wrong_with_an_image(
    small: TFDeepLabMobileNetV2, photo: numpy.ndarray, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        small.segment(photo)
    with pytest.raises(ValueError, match="working_size is 0"):
        small.segment(numpy.zeros((4, 4, 3), numpy.uint8), working_size=0)


def test_the_network_says_what_is_wrong_with_a_map(small: TFDeepLabMobileNetV2) -> None:
    with pytest.raises(ValueError, match=r"x has shape \(3, 33, 33\)"):
        small(torch.zeros(3, 33, 33))
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 0, 33\)"):
        small.predict_labels(torch.zeros(1, 3, 0, 33))
