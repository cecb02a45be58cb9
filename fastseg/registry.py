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
        autograd: None where no output is differentiable, or none should be: asking for the
            gradient of a floating-point output is then an error.
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
            perhaps unsupported_reason and passed_over (see backends.choose).
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
    op = getattr(torch.ops.fastseg, name).default
    arguments = op._schema.arguments
    # The dispatcher drops arguments that equal their default: kernels would be called with fewer.
    if any(a.has_default_value() or a.kwarg_only for a in arguments):
        raise ValueError(f"{name}: defaults and keywords belong to the public function, not here")
    names = [a.name for a in arguments]
    written = [i for i, a in enumerate(arguments) if a.is_write]

    def fake(*args: Any) -> Any:
        try:
            function.check(*args)
        except (ValueError, TypeError) as error:
            raise _traceable(error) from None
        return function.fake(*args)

    def kernel(*args: Any) -> Any:
        function.check(*args)
        backend = choose(spec, function.implementation, dict(zip(names, args, strict=True)))
        with torch._C._DisableAutocast():  # it would reach the torch functions a backend calls
            result = getattr(backend, function.implementation)(*args)
        if function.layout is not None:
            result = _with_layout(result, function.layout(*args))
        for i in written:
            torch.autograd.graph.increment_version(args[i])
        return result

    torch.library.register_fake(f"fastseg::{name}", fake, lib=LIBRARY)
    _implement(name, kernel, "CPU", "CUDA")
    _implement(name, _autograd_kernel(op, function.autograd), "Autograd")
    if spec.autocast == "lower precision":
        for device in ("cpu", "cuda"):
            _register_lower_precision(name, device)


def _with_layout(result: Any, layout: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.contiguous(memory_format=layout)
    return tuple(r.contiguous(memory_format=f) for r, f in zip(result, layout, strict=True))


def _implement(name: str, kernel: Any, *keys: str) -> None:
    for key in keys:
        LIBRARY.impl(name, kernel, key)
    # When an op runs between two graphs, Dynamo shall not compile what is inside. (With
    # torch.compiler.disable every call would pay for it, and the first would import Dynamo.)
    frames = torch._C._dynamo.eval_frame
    if hasattr(frames, "set_code_exec_strategy"):  # torch >= 2.7
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(kernel.__code__, frames._FrameExecStrategy(skip, skip))


def _traceable(error: ValueError | TypeError) -> Exception:
    """`error`, in a form that torch.compile hands on to the user.

    Dynamo wraps what a fake implementation raises into a RuntimeError, except for its own
    Unsupported: at that it leaves the graph and runs the op, which then raises the plain error.
    With fullgraph=True the user gets this exception, which is a ValueError (or TypeError) too.
    """
    if torch._guards.TracingContext.try_get() is None:
        return error
    from torch._dynamo.exc import Unsupported

    kind = TypeError if isinstance(error, TypeError) else ValueError
    return type(kind.__name__, (Unsupported, kind), {})(str(error))


def _autograd_kernel(op: Any, autograd: Autograd | None) -> Callable[..., Any]:
    """What torch.library.register_autograd would register, at half its cost per call."""

    count = len(op._schema.arguments)

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*args[:count])
        if autograd is not None:
            ctx.forced_backend = forced_backend()
            autograd.setup_context(ctx, args, output)
        return output

    def backward(ctx: Any, *grads: Any) -> Any:
        if autograd is None:
            raise NotImplementedError(f"{op} has no derivative")
        # The backward follows the forward's choice: it may run outside the with block, or on an
        # autograd thread that does not see the context variable.
        if ctx.forced_backend is forced_backend() or torch.compiler.is_compiling():
            return autograd.backward(ctx, *grads)
        with use_backend(ctx.forced_backend):
            return autograd.backward(ctx, *grads)

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    derivative: Any = type(op._opname, (torch.autograd.Function,), members)

    def kernel(*args: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return derivative.apply(*args, *_listed(args))
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return kernel


def _listed(args: tuple[Any, ...]) -> list[torch.Tensor]:
    """Tensors in lists, which autograd does not look into: those of functions that have no
    derivative, so that asking for it is an error there too."""
    lists = (a for a in args if isinstance(a, (list, tuple)))
    return [t for values in lists for t in values if isinstance(t, torch.Tensor)]


def _register_lower_precision(name: str, device: str) -> None:
    key = "AutocastCPU" if device == "cpu" else "AutocastCUDA"
    keyset = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, (list, tuple)):
            return [cast(v, dtype) for v in value]
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

    _implement(name, autocast_kernel, key)
