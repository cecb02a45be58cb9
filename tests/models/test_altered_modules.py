"""Whatever somebody alters inside a model counts: every kind of submodule x every alteration.

A model with hooks for all modules calls each of them; that is the plain composition that altered
models are compared with, and a test says that it does call each.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from model_cases import CASES, ModelCase, each_model
from torch import nn
from torch.nn.utils import parametrize, prune

# Submodules that hold others and are not called in the libraries that the models come from either.
NOT_CALLED = (nn.ModuleList,)
NAMES_NOT_CALLED = ("encoder.features",)


@contextmanager
def all_called(log: Callable[[nn.Module], None] = lambda _: None) -> Iterator[None]:
    """Every module is called, since hooks are registered for all of them."""
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: log(module))
    try:
        yield
    finally:
        handle.remove()


def scaled(value: Any, factor: float) -> Any:
    """Tensors, inside lists and tuples too, times a factor."""
    if isinstance(value, list | tuple):
        return type(value)(scaled(v, factor) for v in value)
    return value * factor if isinstance(value, torch.Tensor) else value


class Twice(nn.Module):
    """Parametrization: two times the tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Adapter(nn.Module):
    """Around a module, whose attributes it does not have: the module and a share of its own."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.share = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, *args: Any) -> Any:
        return scaled(self.base(*args), 1 + self.share)


class Meaning(torch.Tensor):
    """A tensor that means another one, as quantised weights do."""


Put = Callable[[nn.Module], nn.Module]


def has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter)


def hook_before(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda _, args: scaled(args, 1.25))


def hook_after(module: nn.Module) -> None:
    module.register_forward_hook(lambda _, __, output: scaled(output, 1.25))


def hook_behind(module: nn.Module) -> None:
    module.register_full_backward_hook(lambda _, grads, __: scaled(grads, 1.25))


def parametrized(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", Twice())


def pruned(module: nn.Module) -> None:
    prune.l1_unstructured(module, "weight", 0.5)


def weight_norm(module: nn.Module) -> None:
    nn.utils.weight_norm(module)
    with torch.no_grad():
        module.weight_g.mul_(1.5)


def spectral_norm(module: nn.Module) -> None:
    torch.manual_seed(1)
    nn.utils.spectral_norm(module)


def own_forward(module: nn.Module) -> None:
    inner = module.forward
    module.forward = lambda *args: scaled(inner(*args), 1.5)


def subclass(module: nn.Module) -> None:
    kind: Any = type(module)

    def forward(self: Any, *args: Any) -> Any:
        return scaled(kind.forward(self, *args), 1.5)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward})


def stored_otherwise(module: nn.Module) -> None:
    module.weight = nn.Parameter(module.weight.detach().mul(2).as_subclass(Meaning))


def appended(module: Any) -> None:
    module.append(nn.Tanh())


def wrapped(module: nn.Module) -> nn.Module:
    return Adapter(module)


def replaced(module: nn.Module) -> nn.Module:
    """By another layer for the same shapes, of any class."""
    if isinstance(module, nn.Conv2d):
        return nn.Sequential(module, nn.Tanh())
    if isinstance(module, nn.BatchNorm2d):
        return nn.GroupNorm(1, module.num_features).double()
    return nn.Sequential(module, nn.Hardtanh(-0.3, 0.3))


# What is done, and to which modules it can be done.
ALTERATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[nn.Module], bool]]] = {
    "forward pre-hook": (hook_before, lambda _: True),
    "forward hook": (hook_after, lambda _: True),
    "full backward hook": (hook_behind, lambda _: True),
    "parametrization": (parametrized, has_weight),
    "prune": (pruned, has_weight),
    "weight_norm": (weight_norm, lambda m: has_weight(m) and m.weight.dim() > 1),
    "spectral_norm": (spectral_norm, lambda m: has_weight(m) and m.weight.dim() > 1),
    "tensor subclass": (stored_otherwise, has_weight),
    "forward of the instance": (own_forward, lambda _: True),
    "subclass": (subclass, lambda _: True),
    "adapter": (wrapped, lambda _: True),
    "another layer": (replaced, lambda m: not list(m.children())),
    "a layer more": (appended, lambda m: isinstance(m, nn.Sequential)),
}


# The rule is the same in training; what is not in here is tried in eval mode only.
TRAINED = ("forward hook", "full backward hook")


def part_of(path: str) -> str:
    """The part of the model that is run, "" for the whole of it."""
    first, dot, _ = path.partition(".")
    return first if dot and first in ("encoder", "decoder", "auxiliary_head") else ""


def alter_at(model: nn.Module, path: str, alter: Callable[[Any], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old weight_norm
        made = alter(model.get_submodule(path))
    if isinstance(made, nn.Module):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, made)


def own_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for v in value for t in tensors(v)] if isinstance(value, list | tuple) else []


@functools.cache
def prepared(case: ModelCase) -> tuple[Any, dict[str, tuple[Any, ...]]]:
    """A model and what its parts are called with, the whole of it with images."""
    model, x = case.model().double(), case.images().double()
    if x.shape[2:] == (48, 64):
        x = x[:, :, :32, :48]  # fits as well, and is quicker
    inputs: dict[str, tuple[Any, ...]] = {"": (x,)}
    copied = copy.deepcopy(model)
    for name, child in copied.named_children():
        child.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args}))
    with torch.no_grad():
        copied.training_logits(x)
    # Features as encoders give them: grads flow to them.
    return model, inputs


@functools.cache
def places() -> dict[str, list[str]]:
    """Per case the paths of its submodules, each kind in one case only.

    A kind is a module's class and name, and the classes of the two that it is in; the blocks of a
    network repeat theirs.
    """
    seen: set[Any] = set()
    found: dict[str, list[str]] = {}
    for case in CASES:
        called: set[nn.Module] = set()
        model, inputs = prepared(case)
        with all_called(called.add), torch.no_grad():
            model(*inputs[""])
            model.training_logits(*inputs[""])
        paths = found.setdefault(case.name, [])
        for path, module in model.named_modules():
            parent, _, name = path.rpartition(".")
            if not path or module not in called:
                continue
            outer = model.get_submodule(parent)
            grand = model.get_submodule(parent.rpartition(".")[0])
            kind = (type(grand), type(outer), name, type(module))
            if kind not in seen:
                seen.add(kind)
                paths.append(path)
    return found


def results(model: Any, part: str, inputs: tuple[Any, ...], training: bool) -> list[torch.Tensor]:
    """Outputs in eval mode without gradients, or outputs, statistics and gradients in training."""
    run = model.get_submodule(part) if part else model
    run.train(training)
    if not training:
        with torch.no_grad():
            outputs = tensors(run(*inputs))
            return [*outputs, *([] if part else [model.predict_labels(*inputs)])]
    run.zero_grad()
    before = {name: b.clone() for name, b in run.named_buffers()}
    leaves = tuple(
        [t.clone().requires_grad_() for t in a]
        if isinstance(a, list)
        else a.clone().requires_grad_()
        for a in inputs
    )
    outputs = tensors(run(*leaves))
    loss = sum(y.sin().sum() for y in outputs if y.requires_grad)
    if not part:
        size = model.output_size(*leaves[0].shape[2:])
        target = torch.zeros(leaves[0].shape[0], *size, dtype=torch.int64)
        loss = loss + model.loss(*leaves, target)
    loss.backward()
    grads = [p.grad for p in run.parameters() if p.grad is not None]
    grads += [t.grad for t in tensors(leaves) if t.grad is not None]
    kept = [b.clone() for b in run.buffers()]
    with torch.no_grad():  # for the next run
        for name, buffer in run.named_buffers():
            buffer.copy_(before[name])
    return [*(y.detach() for y in outputs), *grads, *kept]


@each_model
def test_with_hooks_for_all_modules_each_is_called(case: ModelCase) -> None:
    model, inputs = prepared(case)
    called: set[nn.Module] = set()
    with all_called(called.add), torch.no_grad():
        model(*inputs[""])
        model.training_logits(*inputs[""])
    missed = [
        path
        for path, module in model.named_modules()
        if module not in called
        and not isinstance(module, NOT_CALLED)
        and path not in NAMES_NOT_CALLED
        and not path.startswith(case.uncalled or ("-",))
    ]
    assert missed == []


@each_model
@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_altered_modules_are_called(case: ModelCase, alteration: str) -> None:
    alter, fits = ALTERATIONS[alteration]
    model, inputs = prepared(case)
    wrong = []
    for path in places()[case.name]:
        if not fits(model.get_submodule(path)):
            continue
        part = part_of(path)
        # The modules are copied, and of the tensors those that may be altered.
        inside = [t for _, t in own_tensors(model.get_submodule(path))]
        kept = {id(t): t for _, t in own_tensors(model) if not any(t is i for i in inside)}
        changed = copy.deepcopy(model, kept)
        alter_at(changed, path, alter)
        for training in (False, True) if alteration in TRAINED else (False,):
            try:
                with all_called():
                    expected = results(changed, part, inputs[part], training)
            except RuntimeError:  # PyTorch refuses, as a hook's output may not change in place
                continue
            found = results(changed, part, inputs[part], training)
            try:
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
            except AssertionError as error:
                wrong.append(f"{path}, {training=}: {str(error)[:300]}")
    assert wrong == []


@pytest.mark.parametrize("how", ["trace", "script"])
def test_compiled_layers_inside_a_chain_are_called(how: str) -> None:
    from fastseg.nn import Chain

    act: nn.Module = nn.ReLU()
    act = torch.jit.trace(act, torch.randn(1)) if how == "trace" else torch.jit.script(act)
    chain = Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), act).eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(chain(x), nn.Sequential(*chain)(x))
