"""Which kernels the heads, models and losses of fastseg reach on a GPU: all that there are."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest
import torch
from cuda_calls import (
    backend_of,
    launches,
    recorded_on_cuda,
    recorded_with_gradients,
    replayed,
)
from kernel_calls import crf_calls
from testing_build import ROOT

from fastseg import (
    _native,
    _triton,
    deformable_attention,
    gaussian_filter,
    mask_argmax,
    use_backend,
)
from fastseg.backends import Backend
from fastseg.models import ARCHITECTURES, create_model
from fastseg.nn import ASPP, DiceLoss, DilatedConv2d, FocalLoss, PyramidPooling
from fastseg.ops.dilated_conv2d import measured
from fastseg.ops.upsample_confusion_matrix import upsample_confusion_matrix

sys.path.append(str(ROOT / "benchmarks"))
from head_cases import CASES

# Functions of a backend that nothing here reaches: Triton's dense convolution runs where
# tools/measure_dense_conv.py found it quicker than cuDNN, and that has not run on a GPU yet.
UNMEASURED = {("dilated_conv2d", Backend.TRITON)}


@pytest.fixture
def gpu(emulated_core, monkeypatch):
    """The core in the emulation, and the answers of an H200 to what is asked of a GPU."""
    monkeypatch.setattr(_native, "has_cuda", lambda: True)
    monkeypatch.setattr(_triton, "_is_installed", lambda: True)
    monkeypatch.setattr(_triton, "capability", lambda device: (9, 0))
    monkeypatch.setattr(measured, "_name", lambda device: "NVIDIA H200")
    return emulated_core


def _of_head(case, batch: int = 2) -> torch.Tensor:
    """In bfloat16 and channels_last."""

    def make(shape: tuple[int, ...]) -> torch.Tensor:
        x = torch.empty(shape, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        return x.requires_grad_()

    return case.ours([make((batch, *m)) for m in case.maps], [make(w) for w in case.weights])


def _of_module(make: Callable[[], torch.nn.Module], *shape: int) -> Callable[[], torch.Tensor]:
    """A part of a model on a map in channels_last, as cuDNN makes them; tensors without memory come
    out of a convolution in NCHW."""

    def run() -> torch.Tensor:
        x = torch.empty(shape).contiguous(memory_format=torch.channels_last)
        return make().to(memory_format=torch.channels_last)(x.requires_grad_())

    return run


def _trained(name: str, size: int) -> Callable[[], torch.Tensor]:
    """The loss of a training step."""

    def run() -> torch.Tensor:
        model = create_model(name, encoder_weights=None, classes=21).train()
        target = torch.empty(2, size, size, dtype=torch.long)
        return model.loss(torch.empty(2, 3, size, size), target)

    return run


def _predicted(name: str, size: int) -> Callable[[], None]:
    """Labels and logits of one image."""

    def run() -> None:
        model = create_model(name, encoder_weights=None, classes=21).eval()
        model.predict_labels(torch.empty(1, 3, size, size))
        model(torch.empty(1, 3, size, size))

    return run


def _losses() -> torch.Tensor:
    logits = torch.empty(2, 19, 64, 64, requires_grad=True)
    target = torch.empty(2, 256, 256, dtype=torch.long)
    return DiceLoss("multiclass")(logits, target) + FocalLoss("multiclass")(logits, target)


def _counts() -> None:
    upsample_confusion_matrix(torch.empty(2, 19, 64, 64), torch.empty(2, 256, 256).long())


def _attention() -> torch.Tensor:
    value, places = torch.empty(1, 80, 8, 32), torch.empty(1, 80, 8, 2, 4, 2)
    tensors = [x.requires_grad_() for x in (value, places, places[..., 0].clone())]
    return deformable_attention(tensors[0], [(8, 8), (4, 4)], *tensors[1:])


def _masks() -> None:
    mask_argmax(torch.empty(1, 100, 32, 32), torch.empty(1, 100, 19), (128, 128))


def _exact_filter() -> torch.Tensor:
    values, features = (torch.empty(1, n, 4096, requires_grad=True) for n in (21, 5))
    return gaussian_filter(values, features)


# Without the one whose deconvolutions look at the values of their weights: these have none here.
NETWORKS = [name for name in ARCHITECTURES if name != "fcnvgg16"]
TRAINED: dict[str, Callable[[], torch.Tensor]] = {
    **{f"head {case}": lambda case=case: _of_head(case) for case in CASES},
    **{f"{name} trains": _trained(name, 256) for name in NETWORKS},
    "pyramid in channels_last": _of_module(lambda: PyramidPooling(2048, 512), 2, 2048, 60, 60),
    "separable ASPP in channels_last": _of_module(
        lambda: ASPP(2048, 256, separable=True), 2, 2048, 33, 33
    ),
    "DilatedConv2d 5x5, stride 2": _of_module(
        lambda: DilatedConv2d(64, 64, 5, stride=2, padding=2, groups=64), 2, 64, 65, 65
    ),
    "losses": _losses,
    "deformable attention": _attention,
    "exact filter": _exact_filter,
}
PREDICTED: dict[str, Callable[[], None]] = {
    **{f"{name} predicts": _predicted(name, 256) for name in NETWORKS},
    "counts": _counts,
    "labels of masks": _masks,
}


def _backends(calls) -> dict[tuple[str, Backend], set[str]]:
    """Op and backend -> the functions of it that run."""
    found: dict[tuple[str, Backend], set[str]] = {}
    for call in calls:
        op, function, backend, _ = backend_of(call)
        found.setdefault((op.name, backend), set()).add(function)
    return found


def _kernels(core, calls) -> set[str]:
    """What the calls of the native backend launch, without template arguments."""
    found = set()
    for call in {_key(c): c for c in calls}.values():
        op, _, backend, _ = backend_of(call)
        # The lattice reads on the host how many vertices it has: below, with real values.
        if backend is Backend.NATIVE and op.name != "permutohedral_filter":
            found |= {launch["kernel"].split("<")[0] for launch in replayed(core, call)}
    return found


def _key(call) -> str:
    function, args = call
    described = [(a.shape, a.stride(), a.dtype) if hasattr(a, "stride") else a for a in args]
    return f"{function} {described}"


def test_every_kernel_is_reached(gpu):
    reached: set[str] = set()
    backends: dict[tuple[str, Backend], set[str]] = {}
    recorded = {name: recorded_with_gradients(function) for name, function in TRAINED.items()}
    recorded |= {name: recorded_on_cuda(function) for name, function in PREDICTED.items()}
    for name, calls in recorded.items():
        kernels = _kernels(gpu, calls)
        print(f"{name}: {', '.join(sorted(kernels)) or 'none of ours'}")
        reached |= kernels
        for key, functions in _backends(calls).items():
            backends.setdefault(key, set()).update(functions)
    with use_backend("native"):
        for name, call in crf_calls(height=12, width=16, labels=3):
            kernels = {x["kernel"].split("<")[0] for x in launches(gpu, call, 1 << 40)}
            print(f"{name}: {', '.join(sorted(kernels))}")
            reached |= kernels
    assert not (there := _kernels_in_csrc()) - reached, sorted(there - reached)
    # Nothing falls back to the definition, and what could run in Triton does.
    assert not [key for key in backends if key[1] is Backend.REFERENCE]
    assert not UNMEASURED & set(backends)
    assert backends["gaussian_filter", Backend.TRITON] == {"forward", "backward"}


def _kernels_in_csrc() -> set[str]:
    text = "\n".join(p.read_text() for p in ROOT.glob("csrc/*/*cuda*"))
    assert "testing" not in {p.parent.name for p in ROOT.glob("csrc/*/*cuda*.cu")}
    declared = re.findall(r"__global__[^;{]*?(\w+_kernel)\(", text)
    return {name for name in declared if name not in _kernels_in_testing()}


def _kernels_in_testing() -> set[str]:
    text = (ROOT / "csrc" / "testing" / "emulation_selftest.cpp").read_text()
    return set(re.findall(r"(\w+_kernel)\(", text))
