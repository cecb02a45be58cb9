"""Tools that read a forward instead of running it: TorchScript, tracing, torch.fx.

They get the original forwards, with what these allow (other sizes, control flow).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from accelerate_cases import CASES, Case, images, logits, make, outputs

import fastseg
from fastseg.testing import relative_error

READ = [c for c in CASES if c.library != "transformers"]
each_read = pytest.mark.parametrize("case", READ, ids=str)
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def pair(case: Case, peers: Any, **options: Any) -> tuple[Any, Any]:
    theirs = make(case, peers).eval()
    ours = copy.deepcopy(theirs)
    fastseg.accelerate(ours, image_size=None, **options)
    return theirs, ours


def assert_equal_at_two_sizes(read: Any, model: Any) -> None:
    for size in (64, 96):
        x = images(torch.float32, size, batch=1)
        with torch.no_grad():
            assert relative_error(logits(read(x)), logits(model(x))) <= 1e-5


def accelerated(model: torch.nn.Module) -> int:
    return sum("by fastseg" in module._get_name() for module in model.modules())


@each_read
def test_trace_does_not_bake_the_size_in(case: Case, peers: Any) -> None:
    theirs, ours = pair(case, peers)
    x = images(torch.float32, batch=1)
    with torch.no_grad():
        traced = torch.jit.trace(ours, x, strict=False)
    assert "fastseg" not in str(traced.inlined_graph)
    assert_equal_at_two_sizes(traced, theirs)
    with torch.no_grad():  # and the model goes on as before
        assert relative_error(outputs(ours(x)), outputs(theirs(x))) <= 1e-4


def test_trace_of_low_resolution_logits(peers: Any) -> None:
    for name in ("smp-deeplabv3", "torchvision-fcn"):
        case = next(c for c in CASES if c.name == name)
        _, ours = pair(case, peers, low_resolution=True)
        x = images(torch.float32, batch=1)
        with torch.no_grad():
            traced = torch.jit.trace(ours, x, strict=False)
        assert logits(traced(x)).shape[2] == 8
        assert_equal_at_two_sizes(traced, ours)


def test_trace_of_transformers(peers: Any) -> None:
    for name in ("transformers-segformer", "transformers-convnext"):
        theirs, ours = pair(next(c for c in CASES if c.name == name), peers)
        x = images(torch.float32, batch=1)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs make constants of Python numbers too
            traced = [torch.jit.trace(m, x, strict=False) for m in (ours, theirs)]
            assert relative_error(logits(traced[0](x)), logits(traced[1](x))) <= 1e-5
        assert "fastseg" not in str(traced[0].inlined_graph)


@each_read
def test_script(case: Case, peers: Any) -> None:
    theirs, ours = pair(case, peers)
    count = accelerated(ours)
    scripted = torch.jit.script(ours)
    assert_equal_at_two_sizes(scripted, theirs)
    assert accelerated(ours) == count > 0


def test_script_of_low_resolution_logits_says_what_to_do(peers: Any) -> None:
    for name in ("smp-deeplabv3", "torchvision-fcn"):
        case = next(c for c in CASES if c.name == name)
        theirs, ours = pair(case, peers, low_resolution=True)
        with pytest.raises(ValueError, match=r"call fastseg\.accelerate\(model, low_resolution=Fa"):
            torch.jit.script(ours)
        fastseg.accelerate(ours, image_size=None)
        assert_equal_at_two_sizes(torch.jit.script(ours), theirs)


@pytest.mark.parametrize("name", ["smp-unet", "torchvision-deeplabv3", "torchvision-lraspp"])
def test_symbolic_trace(peers: Any, name: str) -> None:
    theirs, ours = pair(next(c for c in CASES if c.name == name), peers)
    graph = torch.fx.symbolic_trace(ours)
    assert_equal_at_two_sizes(graph, theirs)


def test_feature_extractor_of_torchvision(peers: Any) -> None:
    torchvision = peers("torchvision")
    theirs, ours = pair(next(c for c in CASES if c.name == "torchvision-fcn"), peers)
    extract = torchvision.models.feature_extraction.create_feature_extractor
    x = images(torch.float32, batch=1)
    with torch.no_grad():
        found, expected = (extract(m, ["classifier"])(x)["classifier"] for m in (ours, theirs))
    assert relative_error(found, expected) <= 1e-5
