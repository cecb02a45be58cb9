"""From one OpSpec to a PyTorch operator: schema, fake, kernels, derivatives, autocast, vmap.

Every op is `torch.ops.fastseg.<name>`. Which backend runs is decided inside it (backends.choose),
so torch.compile and torch.export see one node whatever runs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import torch

from . import _private_torch
from ._checks import check_written
from .backends import Backend, choose
from .batching import vmap_rule
from .derivatives import Autograd, autograd_kernel

__all__ = ["ALL_OPS", "Autograd", "Function", "OpSpec", "define"]

LIBRARY = torch.library.Library("fastseg", "DEF")
ALL_OPS: dict[str, OpSpec] = {}


@dataclasses.dataclass(frozen=True)
class Function:
    """One registered function of an op: its forward, its backward, or an out= form.

    Attributes:
        schema: "(Tensor x, ...) -> Tensor", without a name.
        check: raises ValueError or TypeError for arguments the op does not take. Called by the
            kernels and by the fake implementation alike, with the schema's arguments.
        fake: shapes, dtypes and strides of the result for fake tensors; arguments are checked.
        autograd: None where no output is differentiable, or none should be: asking for the
            gradient of a floating-point output is then an error.
        implementation: the function of a backend module that computes it.
        batched: the tensor arguments whose first dimension is the batch, where every result has it
            too and each image is computed by itself. torch.vmap then makes one call of many.
        layout: the memory format of a Tensor result (of each, for a tuple), from the arguments: the
            same whatever backend ran. None for results without layout (scalars, labels, matrices).
    """

    schema: str
    fake: Callable[..., Any]
    check: Callable[..., None] = lambda *args: None
    autograd: Autograd | None = None
    implementation: str = "forward"
    batched: tuple[str, ...] = ()
    layout: Callable[..., torch.memory_format | tuple[torch.memory_format, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class OpSpec:
    """Everything about an op that is not a kernel.

    Attributes:
        functions: suffix of the registered name -> Function; "" is the op itself, "_backward" its
            derivative.
        backends: in order of preference; each module has the functions named by `implementation`
            perhaps unsupported_reason and passed_over (see backends.choose).
        autocast: "input dtype": the op runs in its input's dtype (its kernels accumulate in
            float32); "lower precision": tensors are cast to the autocast dtype, as for
            convolutions; or what autocast makes of the arguments, where the op has one for it.
        tolerance: largest allowed ratio of our error to PyTorch's own error in the same dtype,
            both against float64.
    """

    name: str
    functions: dict[str, Function]
    backends: dict[Backend, ModuleType]
    autocast: Literal["input dtype", "lower precision"] | Callable[[list[Any]], list[Any]] = (
        "input dtype"
    )
    tolerance: float = 2.0


def define(spec: OpSpec) -> Callable[..., Any]:
    """Registers every function of `spec`; returns the callable of the op itself."""
    for suffix, function in spec.functions.items():
        _define_function(spec, spec.name + suffix, function)
    ALL_OPS[spec.name] = spec
    return getattr(torch.ops.fastseg, spec.name).default


def _define_function(spec: OpSpec, name: str, function: Function) -> None:
    LIBRARY.define(name + function.schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(torch.ops.fastseg, name).default
    arguments = op._schema.arguments
    # The dispatcher drops arguments that equal their default: kernels would be called with fewer.
    if any(a.has_default_value() or a.kwarg_only for a in arguments):
        raise ValueError(f"{name}: defaults and keywords belong to the public function, not here")
    names = [a.name for a in arguments]
    check, implementation, layout = function.check, function.implementation, function.layout
    autocast_disabled = _private_torch.autocast_disabled
    written = [i for i, a in enumerate(arguments) if a.is_write]

    def fake(*args: Any) -> Any:
        try:
            function.check(*args)
        except (ValueError, TypeError) as error:
            raise _private_torch.traceable_error(error) from None
        return function.fake(*args)

    def kernel(*args: Any) -> Any:
        check(*args)
        for i in written:
            check_written(names[i], args[i], args)
        backend = choose(spec, implementation, dict(zip(names, args, strict=True)))
        try:
            with autocast_disabled():  # it would reach torch functions of backends
                result = getattr(backend, implementation)(*args)
        except (MemoryError, RuntimeError) as error:
            if _is_out_of_memory(error):
                raise MemoryError(_too_large(name, names, args)) from error
            raise
        if layout is not None:
            result = _with_layout(result, layout(*args))
        for i in written:
            torch.autograd.graph.increment_version(args[i])
        return result

    torch.library.register_fake(f"fastseg::{name}", fake, lib=LIBRARY)
    _implement(name, kernel, "CPU", "CUDA")
    _implement(name, autograd_kernel(op, function.autograd), "Autograd")
    rule = vmap_rule(op, function.batched)
    torch.library.register_vmap(f"fastseg::{name}", rule, lib=LIBRARY)
    for device in ("cpu", "cuda"):
        if spec.autocast == "lower precision":
            _register_autocast(name, device, functools.partial(_in_lower_precision, device))
        elif callable(spec.autocast) and name == spec.name:
            _register_autocast(name, device, spec.autocast)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether the CPU's memory, or the count of its bytes, is exceeded."""
    if isinstance(error, MemoryError):
        return True
    return any(text in str(error) for text in ("DefaultCPUAllocator", "calculation overflowed"))


def _too_large(name: str, names: list[str], args: tuple[Any, ...]) -> str:
    shapes = ", ".join(
        f"{n} {tuple(a.shape)}"
        for n, a in zip(names, args, strict=True)
        if isinstance(a, torch.Tensor)
    )
    return f"{name} of {shapes} needs more memory than there is"


def _with_layout(result: Any, layout: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.contiguous(memory_format=layout)
    return tuple(r.contiguous(memory_format=f) for r, f in zip(result, layout, strict=True))


def _implement(name: str, kernel: Any, *keys: str) -> None:
    for key in keys:
        LIBRARY.impl(name, kernel, key)
    _private_torch.keep_out_of_graphs(kernel)


def _register_autocast(name: str, device: str, convert: Callable[[list[Any]], list[Any]]) -> None:
    key = "AutocastCPU" if device == "cpu" else "AutocastCUDA"
    op = getattr(torch.ops.fastseg, name).default

    def autocast_kernel(*args: Any) -> Any:
        with _private_torch.without_dispatch_key(key):
            return op(*convert(list(args)))

    _implement(name, autocast_kernel, key)


def _in_lower_precision(device: str, args: list[Any]) -> list[Any]:
    dtype = torch.get_autocast_dtype(device)
    return [_cast(a, device, dtype) for a in args]


def _cast(value: Any, device: str, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):
        return [_cast(v, device, dtype) for v in value]
    castable = (
        isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.device.type == device
        and value.dtype is not torch.float64
    )
    return value.to(dtype) if castable else value
