"""Random calls of the public functions: no crash, and an error or the result of PyTorch.

A new op needs one strategy in STRATEGIES: its keyword arguments, of which some should be wrong.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from op_cases import cast, each_op, forward_and_gradients, samples_of

from fastseg.registry import OpSpec
from fastseg.testing import Maker, poisoned_empty, relative_error

MAKER = Maker()
FLOATS = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
ODD_NUMBERS = st.sampled_from([0, -1, -(2**31), 2**31, 2**63 - 1])


def _usually(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """`odd` once in sixteen draws: calls with several arguments should mostly be right."""
    return st.integers(0, 15).flatmap(lambda i: odd if i == 15 else usual)


def _pairs(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(numbers, st.tuples(numbers, numbers))


@st.composite
def tensors(draw: Any, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Random numbers in a random memory layout: permuted, sliced, offset or expanded."""
    order = draw(st.permutations(range(len(shape))))
    steps = draw(st.lists(st.integers(1, 2), min_size=len(shape), max_size=len(shape)))
    start = draw(st.integers(0, 3))
    layout = draw(st.sampled_from(["contiguous", "channels_last", "any", "expanded"]))
    MAKER._generator.manual_seed(draw(st.integers(0, 9)))
    if layout == "any":
        larger = MAKER.tensor(*[shape[i] * steps[i] + start for i in order])
        x = larger.permute([order.index(i) for i in range(len(shape))])
        for axis, step in enumerate(steps):
            x = x.narrow(axis, start, x.shape[axis] - start)[(slice(None),) * axis][
                (slice(None),) * axis + (slice(None, None, step),)
            ]
        return x.to(dtype)
    if layout == "expanded" and shape:
        return MAKER.tensor(1, *shape[1:]).to(dtype).expand(shape)
    x = MAKER.tensor(*shape).to(dtype)
    last = layout == "channels_last" and len(shape) == 4
    return x.contiguous(memory_format=torch.channels_last) if last else x


@st.composite
def maps(draw: Any, largest: int = 24) -> torch.Tensor:
    """Mostly maps [N, C, H, W]."""
    size = st.integers(1, largest)
    usual = st.tuples(st.integers(0, 3), st.integers(1, 20), size, size)
    odd = st.lists(st.integers(0, 4), min_size=0, max_size=5)
    dtype = draw(_usually(FLOATS, st.sampled_from([torch.int64, torch.bool, torch.complex64])))
    return draw(tensors(*draw(_usually(usual, odd)), dtype=dtype))


@st.composite
def _labels(draw: Any, shape: tuple[int, ...], classes: int) -> torch.Tensor:
    MAKER._generator.manual_seed(draw(st.integers(0, 9)))
    labels = MAKER.labels(*shape, classes=max(classes, 1), ignored=draw(st.floats(0, 1)))
    dtype = draw(_usually(st.just(torch.int64), st.sampled_from([torch.int32, torch.float32])))
    return labels.to(dtype)


def _sizes(largest: int = 40) -> st.SearchStrategy[Any]:
    usual = st.tuples(st.integers(1, largest), st.integers(1, largest))
    odd = st.one_of(
        st.sampled_from([(0, 3), (3, -1), (-(2**31), 3)]),  # larger ones are right, and need memory
        st.lists(st.integers(1, 5), max_size=4),
        st.just(7.5),
        st.just((3, 7.5)),
        st.just("ab"),
    )
    return _usually(usual, odd)


@st.composite
def upsample_bilinear(draw: Any) -> dict[str, Any]:
    x = draw(maps())
    factor = _usually(
        st.floats(0.3, 3.0), st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e-320, 0.04])
    )
    arguments = {"size": draw(_sizes())}
    if draw(st.booleans()):
        arguments = {"scale_factor": draw(_pairs(factor))}
    return {"x": x, "align_corners": draw(st.booleans()), **arguments}


@st.composite
def upsample_argmax(draw: Any) -> dict[str, Any]:
    return {"logits": draw(maps(12)), "size": draw(_sizes()), "align_corners": draw(st.booleans())}


@st.composite
def _logits_and_target(draw: Any) -> dict[str, Any]:
    logits = draw(maps(12))
    usual = st.tuples(st.integers(1, 40), st.integers(1, 40))
    usual = usual.map(lambda size: (*logits.shape[:1], *size))
    odd = st.lists(st.integers(0, 4), max_size=4)
    classes = logits.shape[1] if logits.dim() > 1 else 1
    target = draw(_labels(tuple(draw(_usually(usual, odd))), classes))
    return {"logits": logits, "target": target, "align_corners": draw(st.booleans())}


@st.composite
def upsample_cross_entropy(draw: Any) -> dict[str, Any]:
    values = draw(_logits_and_target())
    logits = values["logits"]
    classes = logits.shape[1] if logits.dim() > 1 else 1
    if draw(st.booleans()):
        count = draw(_usually(st.just(classes), st.integers(0, 30)))
        values["weight"] = MAKER.tensor(count).abs().to(logits.dtype)
    reductions = st.sampled_from(["none", "mean", "sum"])
    values["reduction"] = draw(_usually(reductions, st.just("product")))
    values["ignore_index"] = draw(_usually(st.just(-100), st.sampled_from([0, 1, 255, -1])))
    values["label_smoothing"] = draw(_usually(st.sampled_from([0.0, 0.1]), st.just(1.5)))
    return values


@st.composite
def upsample_class_sums(draw: Any) -> dict[str, Any]:
    values = draw(_logits_and_target())
    logits, target = values["logits"], values["target"]
    classes = logits.shape[1] if logits.dim() > 1 else 1
    softmax = draw(st.booleans())
    values["activation"] = draw(_usually(st.just(("sigmoid", "softmax")[softmax]), st.just("tanh")))
    kind = draw(st.sampled_from(["labels", "values", "teacher"]))
    allowed = ["overlap", "target", "count", "square", "loss"]
    if kind != "labels" and target.dim() == 3:
        full = (*logits.shape[:2], *target.shape[1:])
        values["target"] = MAKER.tensor(*full).sigmoid()
        if kind == "teacher":
            values["size"] = draw(_sizes())
        elif draw(st.booleans()):
            values["target"] = draw(_labels(full, 2)).clamp(min=0).to(torch.uint8)
    if kind == "labels" and not softmax and classes == 1:
        values["target"] = draw(_labels(tuple(target.shape), 2))
    if kind == "labels" or not softmax:
        allowed += ["focal", "focal_weight"]
    allowed += ["every_loss"] + ["negative_loss", "negative_focal", "minimum"] * (not softmax)
    names = st.lists(st.sampled_from(allowed), unique=True).map(lambda some: ["probability", *some])
    values["sums"] = draw(_usually(names, st.sampled_from([[], ["count", "count"], ["tp"]])))
    if draw(st.booleans()) and target.dim() == 3:
        shape = (logits.shape[0], *values.get("size", target.shape[1:]))
        if all(isinstance(n, int) and 0 <= n < 100 for n in shape):
            values["pixel_weight"] = MAKER.tensor(*shape).abs()
    values["gamma"] = draw(_usually(st.sampled_from([2.0, 1.5, 0.0]), st.just(math.nan)))
    values["reduced_threshold"] = draw(_usually(st.sampled_from([0.0, 0.3]), st.just(2.0)))
    return values


@st.composite
def pyramid_pool(draw: Any) -> dict[str, Any]:
    x = draw(maps())
    largest = min(x.shape[2:]) if x.dim() == 4 and x.numel() else 3
    bins = st.lists(st.integers(1, max(largest, 1)), min_size=1, max_size=4)
    odd = st.one_of(st.just([]), ODD_NUMBERS.map(lambda n: [1, n]), st.just([2.5]), st.just([40]))
    return {"x": x, "bins": draw(_usually(bins, odd))}


@st.composite
def dilated_conv2d(draw: Any) -> dict[str, Any]:
    x = draw(maps())
    channels = x.shape[1] if x.dim() > 1 else 1
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    groups = draw(st.sampled_from([1, max(channels, 1), *divisors]))
    outputs = draw(st.sampled_from([groups, 2 * groups]))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    shape = draw(_usually(st.just((outputs, channels // groups, *kernel)), st.just((2, 3, 1, 1))))
    dtype = draw(_usually(st.just(x.dtype), FLOATS))
    values = {"x": x, "weight": draw(tensors(*shape, dtype=dtype))}
    if draw(st.booleans()):
        values["bias"] = MAKER.tensor(draw(_usually(st.just(shape[0]), st.just(1)))).to(dtype)
    values["stride"] = draw(_pairs(_usually(st.integers(1, 3), ODD_NUMBERS)))
    values["padding"] = draw(_pairs(_usually(st.integers(0, 9), ODD_NUMBERS)))
    values["dilation"] = draw(_pairs(_usually(st.integers(1, 9), ODD_NUMBERS)))
    values["groups"] = draw(_usually(st.just(groups), st.integers(-1, 5)))
    return values


@st.composite
def upsample_taps(draw: Any) -> dict[str, Any]:
    kernel = draw(_usually(st.sampled_from([1, 3]), st.sampled_from([0, 2, 5, -1, 1.0])))
    taps = int(kernel) ** 2
    n, channels = draw(st.integers(0, 3)), draw(st.integers(1, 9))
    dtype = draw(_usually(FLOATS, st.sampled_from([torch.int64, torch.complex64])))
    size = draw(_sizes(24))
    values: dict[str, Any] = {"size": size, "kernel": kernel}
    side = st.integers(1, 14)
    for name in ("x", *draw(st.sets(st.sampled_from(["x2", "x3", "x4"])))):
        shape = (n, taps * channels, draw(side), draw(side))
        shape = draw(_usually(st.just(shape), st.just(shape[:3])))
        values[name] = draw(tensors(*shape, dtype=draw(_usually(st.just(dtype), FLOATS))))
    if draw(st.booleans()) and isinstance(size, tuple) and len(size) == 2 and min(size) >= 0:
        pair = [int(s) for s in size]
        values["added"] = draw(tensors(n, channels, *pair, dtype=dtype))
    values["mode"] = draw(_usually(st.sampled_from(["bilinear", "nearest"]), st.just("area")))
    values["align_corners"] = values["mode"] != "nearest" and draw(st.booleans())
    return values


@st.composite
def attention_2d_bias(draw: Any) -> dict[str, Any]:
    n, heads, queries, depth = (draw(st.integers(low, 6)) for low in (0, 1, 1, 1))
    h, w = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    dtype = draw(_usually(FLOATS, st.sampled_from([torch.int64, torch.complex64])))
    lengths = {"q": (queries, depth), "bias_h": (queries, h), "bias_w": (queries, w)}
    lengths |= {"k": (h * w, depth), "v": (h * w, depth)}
    result: dict[str, Any] = {"scale": draw(st.sampled_from([None, 0.0, 0.3, -1.0]))}
    for name, last in lengths.items():
        odd = st.lists(st.integers(0, 4), max_size=5)
        shape = draw(_usually(st.just((n, heads, *last)), odd))
        own_dtype = draw(_usually(st.just(dtype), FLOATS))
        result[name] = draw(tensors(*shape, dtype=own_dtype))
    return result


@st.composite
def gaussian_filter(draw: Any) -> dict[str, Any]:
    batch, points = draw(st.integers(0, 2)), draw(st.integers(1, 80))
    result = {}
    for name, most in (("values", 12), ("features", 8)):
        usual = st.tuples(st.just(batch), st.integers(1, most), st.just(points))
        odd = st.lists(st.integers(0, 4), max_size=4)
        dtype = draw(_usually(FLOATS, st.sampled_from([torch.int64, torch.complex64])))
        result[name] = draw(tensors(*draw(_usually(usual, odd)), dtype=dtype))
    return result


@st.composite
def window_filter(draw: Any) -> dict[str, Any]:
    n, h, w = draw(st.integers(0, 2)), draw(st.integers(1, 9)), draw(st.integers(1, 80))
    dtype = draw(_usually(FLOATS, st.sampled_from([torch.int64, torch.complex64])))
    result: dict[str, Any] = {"radius": draw(_usually(st.integers(0, 6), ODD_NUMBERS))}
    for name, most in (("values", 12), ("features", 8)):
        usual = st.tuples(st.just(n), st.integers(1, most), st.just(h), st.just(w))
        odd = st.lists(st.integers(0, 4), max_size=5)
        own_dtype = draw(_usually(st.just(dtype), FLOATS))
        result[name] = draw(tensors(*draw(_usually(usual, odd)), dtype=own_dtype))
    return result


@st.composite
def permutohedral_filter(draw: Any) -> dict[str, Any]:
    sizes = [draw(st.integers(low, high)) for low, high in ((0, 2), (1, 30), (12, 40))]
    count = draw(_usually(st.integers(1, 8), st.sampled_from([0, 9])))
    images = draw(_usually(st.just(sizes[0]), st.sampled_from([1, 3])))
    dtype = draw(_usually(FLOATS, st.sampled_from([torch.int64, torch.complex64])))
    pixels = draw(_usually(st.just(sizes[2]), st.integers(0, 3)))
    features = draw(tensors(images, count, pixels, dtype=dtype))
    factor = draw(_usually(st.sampled_from([1.0, 7.0]), st.sampled_from([1e6, math.nan])))
    return {
        "values": draw(tensors(*sizes, dtype=draw(_usually(st.just(dtype), FLOATS)))),
        "features": (features * factor).to(dtype),
        "transpose": draw(st.booleans()),
    }


@st.composite
def deformable_attention(draw: Any) -> dict[str, Any]:
    n, m, d = draw(st.integers(0, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 20))
    levels = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=3))
    cells = draw(_usually(st.just(sum(h * w for h, w in levels)), st.integers(0, 5)))
    queries, points = draw(st.integers(0, 40)), draw(st.integers(0, 4))
    places = (n, queries, m, len(levels), points)
    dtype = draw(_usually(FLOATS, st.sampled_from([torch.int64, torch.complex64])))
    own_dtype = draw(_usually(st.just(dtype), FLOATS))
    odd = st.lists(st.integers(0, 3), max_size=6)
    scale = draw(st.sampled_from([0.1, 0.5, 3.0]))
    locations = draw(tensors(*draw(_usually(st.just((*places, 2)), odd)), dtype=torch.float64))
    return {
        "value": draw(tensors(n, cells, m, d, dtype=dtype)),
        "shapes": draw(_usually(st.just(levels), st.sampled_from([[], [(-1, 2)], [(2, 2, 2)]]))),
        # Multiples of 1/64: other dtypes round none of them across a cell's middle.
        "locations": ((locations * scale + 0.5) * 64).round().div(64).to(own_dtype),
        "weights": draw(tensors(*places, dtype=own_dtype)),
    }


@st.composite
def mask_argmax(draw: Any) -> dict[str, Any]:
    masks = draw(maps(12))
    usual = st.integers(1, 20).map(lambda classes: (*masks.shape[:2], classes))
    odd = st.lists(st.integers(0, 4), max_size=4)
    dtype = draw(_usually(st.just(masks.dtype), FLOATS))
    return {
        "masks": masks,
        "class_probs": draw(tensors(*draw(_usually(usual, odd)), dtype=dtype)),
        "size": draw(st.one_of(st.none(), _sizes())),
        "crop": draw(_usually(st.none(), _sizes())),
        "out_size": draw(st.one_of(st.none(), _sizes())),
    }


STRATEGIES = {
    "attention_2d_bias": attention_2d_bias(),
    "mask_argmax": mask_argmax(),
    "deformable_attention": deformable_attention(),
    "permutohedral_filter": permutohedral_filter(),
    "upsample_bilinear": upsample_bilinear(),
    "upsample_argmax": upsample_argmax(),
    "upsample_class_sums": upsample_class_sums(),
    "upsample_cross_entropy": upsample_cross_entropy(),
    "upsample_confusion_matrix": _logits_and_target(),
    "pyramid_pool": pyramid_pool(),
    "dilated_conv2d": dilated_conv2d(),
    "gaussian_filter": gaussian_filter(),
    "window_filter": window_filter(),
    "upsample_taps": upsample_taps(),
}


def _check(op: OpSpec, values: dict[str, Any]) -> None:
    table = samples_of(op)
    try:
        with poisoned_empty():
            ours, grads = forward_and_gradients(table.function, values, table.differentiable)
    except (ValueError, TypeError) as error:
        note(f"refused: {error}")
        return
    if table.compare is not None:
        table.compare(values, ours)
        return
    double = cast(values, torch.float64)
    truth, true_grads = forward_and_gradients(table.peer, double, table.differentiable)
    single = cast(values, torch.float32)
    peer, peer_grads = forward_and_gradients(table.peer, single, table.differentiable)
    for name, result, rounded, exact in [
        ("result", ours, peer, truth),
        *((n, g, peer_grads[n], true_grads[n]) for n, g in grads.items()),
    ]:
        dtype = torch.float32 if result.dtype is torch.float64 else result.dtype
        error = relative_error(result, exact)
        # At least two units: of a few numbers alone, PyTorch's may all happen to be exact.
        peer_error = max(relative_error(rounded.to(dtype), exact), torch.finfo(dtype).eps)
        assert error <= op.tolerance * peer_error, f"{name}: {error:.2e}, torch {peer_error:.2e}"


@each_op
def test_random_calls(op):
    if op.name not in STRATEGIES:
        pytest.fail(f"{op.name} has no strategy in {__file__}")

    @settings(
        max_examples=100,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(STRATEGIES[op.name])
    def run(values: dict[str, Any]) -> None:
        _check(op, values)

    run()
