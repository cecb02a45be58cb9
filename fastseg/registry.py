"""From one OpSpec to a PyTorch operator: schema, fake, CPU and CUDA kernels, autograd, autocast.

Every op is `torch.ops.fastseg.<name>`. Which backend runs is decided inside it (backends.choose),
so torch.compile and torch.export see one node whatever runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import torch

from .backends import Backend, choose, forced_backend, use_backend

LIBRARY = torch.library.Library("fastseg", "DEF")
ALL_OPS: dict[str, OpSpec] = {}


@dataclasses.dataclass(frozen=True)
class Autograd:
    """The derivative of one function: what torch.library.register_autograd takes."""

    setup_context: Callable[..., None]  # (ctx, inputs, output)
    backward: Callable[..., Any]  # (ctx, *grads) -> one gradient or None per input


@dataclasses.dataclass(frozen=True)
class Function:
    """One registered function of an op: its forward, its backward, or an out= form.

    Attributes:
        schema: "(Tensor x, ...) -> Tensor", without a name.
        check: raises ValueError or TypeError for arguments the op does not take. Called by the
            kernels and by the fake implementation alike, with the schema's arguments.
        fake: shapes, dtypes and strides of the result for fake tensors; arguments are checked.
        autograd: None only where no output is differentiable.
        implementation: the function of a backend module that computes it.
        layout: the memory format of a Tensor result (of each, for a tuple), from the arguments: the
            same whatever backend ran. None for results without layout (scalars, labels, matrices).
    """

    schema: str
    fake: Callable[..., Any]
    check: Callable[..., None] = lambda *args: None
    autograd: Autograd | None = None
    implementation: str = "forward"
    layout: Callable[..., torch.memory_format | tuple[torch.memory_format, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class OpSpec:
    """Everything about an op that is not a kernel.

    Attributes:
        functions: suffix of the registered name -> Function; "" is the op itself, "_backward" its
            derivative.
        backends: in order of preference; each module has the functions named by `implementation`
            and unsupported_reason(*args) -> str | None, called with the same arguments.
        autocast: "input dtype": the op runs in its input's dtype (its kernels accumulate in
            float32); "lower precision": tensors are cast to the autocast dtype, as for
            convolutions.
        tolerance: largest allowed ratio of our error to PyTorch's own error in the same dtype,
            both against float64.
    """

    name: str
    functions: dict[str, Function]
    backends: dict[Backend, ModuleType]
    autocast: Literal["input dtype", "lower precision"] = "input dtype"
    tolerance: float = 2.0


def define(spec: OpSpec) -> Callable[..., Any]:
    """Registers every function of `spec`; returns the callable of the op itself."""
    for suffix, function in spec.functions.items():
        _define_function(spec, spec.name + suffix, function)
    ALL_OPS[spec.name] = spec
    return getattr(torch.ops.fastseg, spec.name).default


def _define_function(spec: OpSpec, name: str, function: Function) -> None:
    LIBRARY.define(name + function.schema, tags=(torch.Tag.pt2_compliant_tag,))
    qualified = f"fastseg::{name}"

    def fake(*args: Any) -> Any:
        function.check(*args)
        return function.fake(*args)

    def kernel(*args: Any) -> Any:
        function.check(*args)
        backend = choose(spec, function.implementation, args)
        result = getattr(backend, function.implementation)(*args)
        if function.layout is not None:
            result = _with_layout(result, function.layout(*args))
        return result

    torch.library.register_fake(qualified, fake, lib=LIBRARY)
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, kernel, key)
    if spec.autocast == "lower precision":
        for device in ("cpu", "cuda"):
            _register_lower_precision(name, device)
    if function.autograd is not None:
        _register_autograd(qualified, function.autograd)


def _with_layout(result: Any, layout: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.contiguous(memory_format=layout)
    return tuple(r.contiguous(memory_format=f) for r, f in zip(result, layout, strict=True))


def _register_autograd(qualified: str, autograd: Autograd) -> None:
    # A backend forced for the forward is forced for its backward, which may run elsewhere: outside
    # the with block, or on an autograd thread that does not see the context variable.
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.forced_backend = forced_backend()
        autograd.setup_context(ctx, inputs, output)

    def backward(ctx: Any, *grads: Any) -> Any:
        if ctx.forced_backend is None or torch.compiler.is_compiling():
            return autograd.backward(ctx, *grads)
        with use_backend(ctx.forced_backend):
            return autograd.backward(ctx, *grads)

    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=LIBRARY)


def _register_lower_precision(name: str, device: str) -> None:
    key = "AutocastCPU" if device == "cpu" else "AutocastCUDA"
    keyset = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(value: Any, dtype: torch.dtype) -> Any:
        castable = (
            isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and value.device.type == device
            and value.dtype is not torch.float64
        )
        return value.to(dtype) if castable else value

    def autocast_kernel(*args: Any) -> Any:
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(keyset):
            op = getattr(torch.ops.fastseg, name).default
            return op(*(cast(a, dtype) for a in args))

    LIBRARY.impl(name, autocast_kernel, key)
