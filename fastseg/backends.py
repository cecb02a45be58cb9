"""Which implementation of an op runs. The choice is made inside the op, so graphs never see it."""

from __future__ import annotations

import contextlib
import contextvars
import enum
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .registry import OpSpec


class Backend(enum.Enum):
    """An implementation of an op. Not every op has every backend: `fastseg info` shows which."""

    NATIVE = "native"  # C++ on CPU tensors, CUDA C++ on CUDA tensors
    TRITON = "triton"  # CUDA tensors
    TORCH = "torch"  # torch's own kernel, where that is already at the hardware's limit
    REFERENCE = "reference"  # plain PyTorch: the definition, on any device


class BackendUnavailable(NotImplementedError):
    """No backend, or not the forced one, can run an op on these inputs; the message says why."""


_forced: contextvars.ContextVar[Backend | None] = contextvars.ContextVar(
    "fastseg_backend", default=None
)


@contextlib.contextmanager
def use_backend(backend: Backend | str | None) -> Iterator[None]:
    """Forces every op called inside to one backend; the backward follows the forward's choice.

    Args:
        backend: a Backend or its value ("native", "triton", "torch", "reference"); None restores
            the automatic choice.

    Raises:
        ValueError: no backend has that name.

    An op that cannot run on the forced backend raises BackendUnavailable with the reason. Under
    torch.compile enter it around the call of the compiled function: the choice is made at run time.
    """
    token = _forced.set(_parse(backend))
    try:
        yield
    finally:
        _forced.reset(token)


def forced_backend() -> Backend | None:
    """The backend that use_backend() forces here, or None."""
    return _forced.get()


def _parse(backend: Backend | str | None) -> Backend | None:
    if backend is None or isinstance(backend, Backend):
        return backend
    try:
        return Backend(backend)
    except ValueError:
        allowed = ", ".join(repr(b.value) for b in Backend)
        raise ValueError(f"backend is {backend!r}, allowed are {allowed} and None") from None


def unsupported_reasons(
    op: OpSpec, function: str, arguments: dict[str, Any]
) -> dict[Backend, str | None]:
    """For each backend of `op`: why its `function` cannot run on `arguments`, or None if it can."""
    return {b: _reason(module, function, arguments) for b, module in op.backends.items()}


def _reason(module: ModuleType, function: str, arguments: dict[str, Any]) -> str | None:
    if not hasattr(module, function):
        return f"has no {function}"
    ask = getattr(module, "unsupported_reason", None)
    return None if ask is None else ask(function, **arguments)


def _passed_over(module: ModuleType, function: str, arguments: dict[str, Any]) -> str | None:
    """Why a backend that could run is left out of the automatic choice: another one is faster."""
    ask = getattr(module, "passed_over", None)
    return None if ask is None else ask(function, **arguments)


def choose(op: OpSpec, function: str, arguments: dict[str, Any]) -> ModuleType:
    """Chooses the first backend of `op`, in its order of preference, that can run `function`.

    A backend module answers `unsupported_reason(function, **arguments)`: why it cannot run that
    function on these arguments, or None. A module without it runs anywhere. It may answer
    `passed_over(function, **arguments)` as well: why it is left out although it could run, unless
    it is forced.

    Args:
        op: the op.
        function: name of the function of a backend module, such as "forward".
        arguments: those of the registered function, by the names in its schema.

    Raises:
        BackendUnavailable: none can, or the forced one cannot; lists every reason.
    """
    forced = _forced.get()
    if forced is None:  # at every call: no more than has to be asked
        for module in op.backends.values():
            members = module.__dict__
            unsupported, over = members.get("unsupported_reason"), members.get("passed_over")
            if (
                function in members
                and (unsupported is None or unsupported(function, **arguments) is None)
                and (over is None or over(function, **arguments) is None)
            ):
                return module
    if forced is not None and forced not in op.backends:
        have = ", ".join(b.value for b in op.backends)
        raise BackendUnavailable(f"{op.name} has no backend {forced.value!r} (it has: {have})")
    refusals = []
    for backend, module in op.backends.items():
        if forced is not None and backend is not forced:
            continue
        reason = _reason(module, function, arguments)
        if reason is None and forced is None:
            reason = _passed_over(module, function, arguments)
        if reason is None:
            return module
        refusals.append(f"  {backend.value}: {reason}")
    raise BackendUnavailable(
        f"no backend of {op.name} can run its {function} on these inputs:\n" + "\n".join(refusals)
    )
