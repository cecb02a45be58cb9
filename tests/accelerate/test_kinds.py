"""How kinds of modules are found, and what it takes to add one."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate_cases import CASES, Case, make
from torch import nn

import fastseg
from fastseg.accelerate import known
from fastseg.accelerate.known import LIBRARIES
from fastseg.accelerate.swap import Swap, full_name, original_class

FOLDER = Path(inspect.getfile(known)).parent
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@each_case
def test_a_class_is_asked_once_and_a_module_at_most_once(
    case: Case, peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(case, peers)
    asked: Counter[str] = Counter()
    matched: Counter[int] = Counter()
    ask = known._ask

    def counted(kind: type) -> Any:
        asked[full_name(kind)] += 1
        return ask(kind)

    for swap in known._SWAPS:
        original = swap.matches

        def counted_match(module: Any, original: Any = original) -> bool:
            matched[id(module)] += 1
            return original(module)

        monkeypatch.setattr(swap, "matches", counted_match)
    known._KINDS.clear()
    monkeypatch.setattr(known, "_ask", counted)
    found = list(known.candidates(model))
    assert found
    assert set(asked.values()) == {1}
    assert set(asked) == {full_name(original_class(m)) for m in model.modules()}
    # Not one visit per module and kind: 4298 for a SegFormer of 196 modules, when there were 26.
    assert set(matched.values()) == {1}
    fastseg.accelerate(model, image_size=None)
    assert set(asked.values()) == {1}


@each_case
def test_every_class_of_a_kind_is_there(case: Case, peers: Any) -> None:
    """The names in `classes` are those of the library at hand."""
    peers(case.library)
    library = next(each for each in LIBRARIES if each.name == case.library)
    for swap in library.swaps:
        for name in swap.classes:
            module, _, kind = name.rpartition(".")
            try:
                found = getattr(__import__(module, fromlist=[kind]), kind)
            except ImportError as error:
                pytest.fail(f"{type(swap).__name__}: {error}")
            assert issubclass(found, nn.Module) and full_name(found) == name


def test_a_kind_without_a_library_is_the_same_class_of_another_name() -> None:
    """nn.Sequential counts by its forward, whatever a subclass is called; others by their name."""

    class Block(nn.Sequential):
        pass

    class Doubled(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    layers = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    assert known.swap_for(Block(*layers)) is known.swap_for(nn.Sequential(*layers))
    assert known.swap_for(Doubled(*layers)) is None

    class Convolution(nn.Conv2d):
        pass

    plain = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)
    assert known.swap_for(plain) is not None
    assert known.swap_for(Convolution(4, 4, 3, padding=2, dilation=2, groups=4)) is None


def test_a_library_is_one_file_and_one_line() -> None:
    """No other file of the package names it."""
    for library in LIBRARIES:
        short = {"segmentation_models_pytorch": "smp"}.get(library.name, library.name)
        users = []
        for file in FOLDER.glob("*.py"):
            tree = ast.parse(file.read_text())
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            if any(short in [a.name for a in node.names] for node in imports if node.level == 1):
                users.append(file.stem)
        assert set(users) <= {"known", "smp"} and "known" in users, (library.name, users)
        assert (FOLDER / f"{short}.py").is_file()


def test_a_library_that_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a newcomer writes: a class with the names of theirs, and a row."""

    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    class Faster(Swap):
        what = "one multiplication"
        classes = (full_name(Doubling),)

        def forward(self, module: Any, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    swap = Faster()
    monkeypatch.setitem(known._BY_CLASS, full_name(Doubling), swap)
    monkeypatch.setattr(known, "_PACKAGES", (*known._PACKAGES, f"{__name__}."))
    known._KINDS.clear()
    model = Doubling()
    report = fastseg.accelerate(model, image_size=None)
    assert [(row.what, row.why_not) for row in report.rows] == [("one multiplication", "")]
    assert torch.equal(model(torch.ones(2)), torch.full((2,), 2.0))
    fastseg.restore(model)
    monkeypatch.setattr(Doubling, "forward", lambda self, y: y + y)
    (row,) = fastseg.accelerate(model, image_size=None).rows
    assert row.why_not == "forward takes (y), known is (x)"
    known._KINDS.clear()


def test_classes_of_parametrizations_are_not_kept() -> None:
    known._KINDS.clear()
    for _ in range(3):
        layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
        fastseg.accelerate(nn.Sequential(layer), image_size=None)
    del layer
    import gc

    gc.collect()
    assert sum("Parametrized" in kind.__name__ for kind in known._KINDS) == 0


class Adapter(nn.Module):
    """Looks like what it wraps, attribute for attribute, and computes something else."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def __getitem__(self, index: int) -> Any:
        return self.inner[index]

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Any:
        return iter(self.inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.inner(x)


@pytest.mark.parametrize(
    ("name", "path", "change"),
    [
        ("smp-unet", "decoder.blocks.0.conv1.0", "stride"),
        ("smp-pspnet", "decoder.psp.blocks.1.pool.0", "pool"),
        ("smp-deeplabv3", "decoder.aspp.convs.4.0", "pool"),
        ("smp-deeplabv3plus", "decoder.up", "up"),
        ("smp-fpn", "decoder.seg_blocks.0.block.1.block.0", "dilation"),
        ("transformers-segformer", "decode_head.linear_fuse", "kernel"),
        ("transformers-convnext", "decode_head.bottleneck.conv", "stride"),
        ("smp-segformer", "decoder.fuse_stage.0", "kernel"),
        ("torchvision-lraspp", "classifier.low_classifier", "kernel"),
        ("smp-pspnet", "decoder.psp.blocks.1", "adapter"),
        ("smp-segformer", "decoder.mlp_stage.1", "adapter"),
        ("smp-fpn", "decoder.seg_blocks.0.block.1", "adapter"),
        ("transformers-segformer", "decode_head.linear_projections.1", "adapter"),
        ("transformers-convnext", "decode_head.fpn_bottleneck", "adapter"),
        ("torchvision-deeplabv3", "classifier.0.project", "adapter"),
        ("smp-deeplabv3plus", "decoder.block2.0", "adapter"),
    ],
)
def test_layers_exchanged_after_accelerating(peers: Any, name: str, path: str, change: str) -> None:
    """A forward that reads its layers asks at every call whether they are what it expects."""
    model = make(named(name), peers).eval()
    fastseg.accelerate(model, image_size=None)
    parent, _, child = path.rpartition(".")
    old: Any = model.get_submodule(path)
    new: nn.Module
    if change == "adapter":
        new = Adapter(old)
    elif change == "pool":
        new = nn.AdaptiveMaxPool2d(old.output_size)
    elif change == "up":
        new = nn.Upsample(scale_factor=old.scale_factor, mode="nearest")
    else:
        options = {"kernel_size": 3, "padding": 1, "bias": old.bias is not None}
        if change == "dilation":
            options.update(dilation=2, padding=2)
        if change == "stride":
            options.update(padding_mode="reflect")
        new = nn.Conv2d(old.in_channels, old.out_channels, **options)
    model.get_submodule(parent)._modules[child] = new
    x = torch.randn(1, 3, 64, 64)
    from accelerate_cases import outputs

    with torch.no_grad():
        found = outputs(model(x))
        report = fastseg.accelerate(fastseg.restore(model), image_size=None)
        assert any(path.startswith(row.path) for row in report.left)
        expected = outputs(fastseg.restore(model)(x))
    assert fastseg.testing.relative_error(found, expected) <= 1e-4
