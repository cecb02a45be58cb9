"""Which kernels the calls of ops reach on a GPU, without one.

A function runs on tensors without memory, and what ops it calls is recorded. Each call is then made
again on CPU tensors of the same sizes, whose memory nobody touches, while the emulation only notes
the launches.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_cases import RecordedCalls
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fastseg.backends import Backend, choose
from fastseg.ops.upsample_conv2d import plan
from fastseg.registry import ALL_OPS, OpSpec

Call = tuple[Any, tuple[Any, ...]]


def recorded_on_cuda(function: Callable[[], Any]) -> list[Call]:
    """The calls of ops that `function` makes where every new tensor is a fake one on a GPU.

    No gradients are recorded: autograd asks for CUDA's streams.
    """
    with FakeTensorMode(), RecordedCalls() as mode, torch.device("cuda"), _WithoutGuard():
        with torch.no_grad():
            function()
    return mode.calls


def recorded_with_gradients(function: Callable[[], torch.Tensor]) -> list[Call]:
    """The calls of `function`, and of the gradients of its result to all that requires one.

    On the meta device, where autograd runs, with the costs of a GPU in upsample_conv2d's plan: the
    other choices of a device are the CPU's alone, or are made where no gradients are recorded.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "costs", lambda x: plan._CUDA)
        with RecordedCalls() as mode, torch.device("meta"):
            function().sum().backward()
    return [(f, tree_map_only(torch.Tensor, _fake_cuda, args)) for f, args in mode.calls]


def _part(x: torch.Tensor, index: Any) -> torch.Tensor:
    """x[index] by ops, for slices, whole numbers, None and an ellipsis."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(part is ... for part in parts):
        at = next(i for i, part in enumerate(parts) if part is ...)
        known = sum(part is not None for part in parts) - 1
        parts[at : at + 1] = [slice(None)] * (x.dim() - known)
    dim = 0
    for part in parts:
        if isinstance(part, int):
            x = torch.ops.aten.select.int(x, dim, part)
            continue
        if part is None:
            x = torch.ops.aten.unsqueeze.default(x, dim)
        else:
            x = torch.ops.aten.slice.Tensor(x, dim, part.start, part.stop, part.step or 1)
        dim += 1
    return x


class _WithoutGuard(TorchFunctionMode):
    """Without what asks for CUDA's device guard, which a torch for CPUs does not have.

    Tensor.contiguous and slices are called as ops, F.unfold on the meta device, and weights are not
    initialised.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.contiguous:
            func = torch.ops.aten.contiguous.default
        elif func is torch.Tensor.__getitem__:
            return _part(*args)
        elif func is F.unfold:
            x, *rest = args
            meta = torch.empty(x.shape, dtype=x.dtype, device="meta")
            return torch.empty(
                func(meta, *rest, **(kwargs or {})).shape, dtype=x.dtype, device="cuda"
            )
        elif getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        elif func in (torch.Tensor.uniform_, torch.Tensor.normal_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _fake_cuda(x: torch.Tensor) -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")


def backend_of(call: Call) -> tuple[OpSpec, str, Backend, Any]:
    """The op of a call, the backend function that runs, its backend, and its module."""
    function, args = call
    name = function._schema.name.removeprefix("fastseg::")
    spec = next(s for s in ALL_OPS.values() for f in s.functions if s.name + f == name)
    implementation = spec.functions[name.removeprefix(spec.name)].implementation
    names = [a.name for a in function._schema.arguments]
    module = choose(spec, implementation, dict(zip(names, args, strict=True)))
    (backend,) = (b for b, m in spec.backends.items() if m is module)
    return spec, implementation, backend, module


class Memory(TorchDispatchMode):
    """Tells the emulation of every tensor that is made, and keeps it."""

    def __init__(self, core: Any) -> None:
        super().__init__()
        self.core, self.kept = core, []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.add, result)
        return result

    def add(self, x: torch.Tensor) -> None:
        storage = x.untyped_storage()
        self.core.cuda_on_cpu.add_memory(storage.data_ptr(), storage.nbytes())
        self.kept.append(x)


def launches(
    core: Any, function: Callable[[], Any], sampled_blocks: int = 0
) -> list[dict[str, Any]]:
    """What `function` launches in the emulation; at most so many blocks of each launch run.

    `function` calls functions of a backend module, not ops: the memory that an op allocates would
    not be seen.
    """
    core.cuda_on_cpu.watch(sampled_blocks)
    try:
        with Memory(core):
            function()
    finally:
        found = core.cuda_on_cpu.watched()
    names = _names(core.__file__)
    for launch in found:
        launch["kernel"] = names[launch["offset"]]
    return found


def replayed(core: Any, call: Call, sampled_blocks: int = 0) -> list[dict[str, Any]]:
    """The launches of a call that the native backend takes."""
    _, implementation, backend, module = backend_of(call)
    assert backend is Backend.NATIVE

    def run() -> None:
        args = tree_map_only(torch.Tensor, _on_cpu, call[1])
        getattr(module, implementation)(*args)

    return launches(core, run, sampled_blocks)


def _on_cpu(x: torch.Tensor) -> torch.Tensor:
    storage = x.untyped_storage().nbytes() // x.element_size()
    memory = torch.empty(storage, dtype=x.dtype)
    return memory.as_strided(x.shape, x.stride(), x.storage_offset())


_known: dict[str, dict[int, str]] = {}


def _names(module: str) -> dict[int, str]:
    """The kernels of a module by their place in its file, such as "argmax_fwd_kernel<float>"."""
    if module not in _known:
        assert shutil.which("nm") is not None
        text = subprocess.run(["nm", "-C", module], capture_output=True, text=True, check=True)
        _known[module] = dict(_kernels(text.stdout))
    return _known[module]


def _kernels(table: str) -> Iterator[tuple[int, str]]:
    for line in table.splitlines():
        address, _, symbol = line.partition(" ")
        symbol = re.sub(r"\(anonymous namespace\)::|\b\w+::|\(\w+\)(?=\d)", "", symbol[2:])
        symbol = re.sub(r"\(.*\)$", "", symbol.removeprefix("void "))
        if re.match(r"\w+_kernel\b", symbol):
            yield int(address, 16), symbol
