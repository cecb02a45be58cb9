"""The private names of PyTorch that ops and layers use, each behind a name of its own.

Checked with PyTorch 2.13.0, the pinned version, and 2.11.0. A name that an older or newer version
may lack is looked up when it is used, and its function says what happens without it. A test forbids
private names of PyTorch in every other module of the package (test_private_torch.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["FakeTensor", "FakeTensorMode", "TorchDispatchMode", "tree_leaves"]  # and what follows

# The base of the batch norms of every rank, with their buffers and functional forward; and its own
# base, which the instance norms share.
BatchNorm = _BatchNorm
NormWithStatistics = _NormBase

# An autograd.Function whose apply() sees to one transform of torch.func at a time, as a kernel of
# the dispatcher must. Under a transform it runs inside single_level_allowed().
SingleLevelFunction: Any = _SingleLevelFunction
single_level_allowed: Callable[[], AbstractContextManager[Any]] = (
    enable_single_level_autograd_function
)

any_requires_grad: Callable[..., bool] = torch._C._any_requires_grad
below_autograd: Callable[[], AbstractContextManager[Any]] = torch._C._AutoDispatchBelowAutograd
autocast_disabled: Callable[[], AbstractContextManager[Any]] = torch._C._DisableAutocast
forward_mode_enabled: Callable[[bool], AbstractContextManager[Any]] = (
    forward_ad._set_fwd_grad_enabled
)
are_functorch_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active


def in_forward_mode() -> bool:
    """Whether an operation computes the forward-mode derivatives of its arguments here."""
    return forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()


def is_transformed() -> bool:
    """Whether more than plain autograd looks at operations: torch.func or forward-mode AD."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_recorded() -> bool:
    """Whether torch.jit.trace or torch.fx's tracer records operations."""
    return torch._C._is_tracing() or torch.fx._symbolic_trace._is_fx_tracing_flag


def is_plain_call(x: torch.Tensor) -> bool:
    """Whether a function of x only has to give its value: nothing records, transforms, counts or
    compiles what is done with it, and no gradient is asked for."""
    if torch.compiler.is_compiling():  # first: the compiler knows no function below
        return False
    return (
        type(x) is torch.Tensor
        and not (x.requires_grad and torch.is_grad_enabled())
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and not is_transformed()
        and not is_recorded()
    )


def may_write_in_place(*tensors: torch.Tensor) -> bool:
    """Whether a function may write over intermediate results, and use autograd functions that do.

    Under torch.compile, torch.func and forward-mode AD, and for subclasses of Tensor, functions are
    plain compositions instead.
    """
    plain = all(type(x) in (torch.Tensor, torch.nn.Parameter) for x in tensors)
    return plain and not torch.compiler.is_compiling() and not is_transformed()


def without_dispatch_key(name: str) -> AbstractContextManager[Any]:
    """A context in which the dispatcher passes over a key, such as "AutocastCPU"."""
    key = getattr(torch._C.DispatchKey, name)
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key))


def keep_out_of_graphs(function: Any) -> None:
    """Lets Dynamo neither compile `function` nor what it calls.

    torch.compiler.disable does the same, but every call would pay for it, and the first would
    import Dynamo. PyTorch before 2.7 has no such switch: there Dynamo may compile the function.
    """
    frames = torch._C._dynamo.eval_frame
    if hasattr(frames, "set_code_exec_strategy"):
        skip = frames._FrameAction.SKIP
        frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))


def traceable_error(error: ValueError | TypeError) -> Exception:
    """`error` of a fake implementation, in a form that torch.compile hands on to the user.

    Dynamo wraps what a fake implementation raises into a RuntimeError, except for its own
    Unsupported: at that it leaves the graph and runs the op, which then raises the plain error.
    With fullgraph=True the user gets this exception, which is a ValueError (or TypeError) too.
    """
    if torch._guards.TracingContext.try_get() is None:
        return error
    from torch._dynamo.exc import Unsupported

    kind = TypeError if isinstance(error, TypeError) else ValueError
    return type(kind.__name__, (Unsupported, kind), {})(str(error))


def convolution_and_activation(*args: Any) -> torch.Tensor:
    """oneDNN's convolution with an activation in it, as torch.compile calls it."""
    return torch.ops.mkldnn._convolution_pointwise(*args)


def onednn_has_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 convolutions for this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def batch_norm_with_state(*args: Any) -> tuple[Any, ...]:
    """aten's batch norm, with all that its backward takes."""
    return torch.ops.aten._batch_norm_impl_index(*args)


def batch_norm_backward(*args: Any) -> tuple[Any, ...]:
    """The backward of batch_norm_with_state."""
    return torch.ops.aten._batch_norm_impl_index_backward(*args)


def move_towards(values: list[torch.Tensor], targets: list[torch.Tensor], share: float) -> None:
    """Moves every tensor, in place, by a share of the way to its target, in one launch."""
    torch._foreach_lerp_(values, targets, share)


def occupy_device(cycles: int) -> None:
    """Keeps the current CUDA stream busy while the host queues what is to be timed."""
    torch.cuda._sleep(cycles)


def compile_in_this_process() -> None:
    """Forgets what was compiled, and compiles without worker processes."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    inductor.compile_threads = 1
