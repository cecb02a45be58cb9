"""Every public name says what it takes and what it returns."""

from __future__ import annotations

import enum
import importlib
import inspect
import re

import pytest
import torch

MODULES = [
    "fastseg",
    "fastseg.accelerate",
    "fastseg.crf",
    "fastseg.crf.densecrf",
    "fastseg.data",
    "fastseg.inference",
    "fastseg.limits",
    "fastseg.metrics",
    "fastseg.models",
    "fastseg.nn",
    "fastseg.ops",
]


def public_names() -> dict[str, object]:
    """Functions and classes of the public modules (in __all__, or defined there), each once."""
    found: dict[int, tuple[str, object]] = {}
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        defined = [
            name
            for name, thing in vars(module).items()
            if not name.startswith("_") and getattr(thing, "__module__", None) == module_name
        ]
        for name in getattr(module, "__all__", defined):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isroutine(thing):
                found.setdefault(id(thing), (f"{module_name}.{name}", thing))
    return dict(found.values())


NAMES = public_names()


def documentation(thing: object) -> str:
    """The docstring; of a class, with those of its bases, whose arguments it may share."""
    own = inspect.getdoc(thing) or ""
    if not inspect.isclass(thing):
        return own
    bases = [inspect.getdoc(base) or "" for base in thing.__mro__[1:] if base is not object]
    return "\n".join([own, *bases])


def parameters(thing: object) -> list[str]:
    return [
        name
        for name, each in inspect.signature(thing).parameters.items()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]


def documented(name: str, text: str) -> bool:
    """Whether a line of the text begins with the name (or a list that has it) and a colon."""
    return bool(re.search(rf"^\s+(\w+, )*{name}(, \w+)*( \(.*\))?:", text, re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_public_name(name):
    thing = NAMES[name]
    summary = (inspect.getdoc(thing) or "").partition("\n")[0]
    assert thing.__doc__ and summary.strip(), f"{name} has no docstring"
    assert summary.strip()[-1] in ".:", f"{name}: the first line is no sentence: {summary!r}"
    if inspect.isclass(thing) and issubclass(thing, (enum.Enum, BaseException)):
        return
    text = documentation(thing)
    missing = [each for each in parameters(thing) if not documented(each, text)]
    assert not missing, f"{name}: no line for {', '.join(missing)}"
    if inspect.isfunction(thing):
        result = str(inspect.signature(thing).return_annotation)
        # A context manager has nothing to say beyond what holds inside it.
        if result != "None" and not result.startswith("Iterator"):
            assert re.search(r"^(Returns|Yields):", text, re.MULTILINE), f"{name}: no Returns"


def test_that_it_can_fail():
    def undocumented(image: torch.Tensor, size: int) -> torch.Tensor:
        """Resizes.

        Args:
            image: map.
        """

    text = documentation(undocumented)
    assert [each for each in parameters(undocumented) if not documented(each, text)] == ["size"]
