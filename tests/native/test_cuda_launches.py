"""Rules for launches that need no GPU to be checked: devices, streams, captures, allocations."""

from __future__ import annotations

import ast
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from testing_build import ROOT, run

from fastseg import _streams

SOURCES = sorted((ROOT / "fastseg").rglob("*.py"))
# Functions of the native core with "cuda_" in front that launch nothing.
ASK_ONLY = {"cuda_partial_sums", "cuda_workspace_bytes"}
# Kernels of Triton start where a function is called with a grid: name[...](...).
GUARDS = {"_on", "on"}


def _calls(tree: ast.AST, held: bool = False):
    """Each call, with whether a guard of the device is entered around it."""
    for node in ast.iter_child_nodes(tree):
        inside = held
        if isinstance(node, ast.With):
            names = {ast.unparse(i.context_expr).split("(")[0] for i in node.items}
            inside = held or bool(names & {*GUARDS, "torch.cuda.device_of", "torch.cuda.device"})
        if isinstance(node, ast.Call):
            yield node, inside
        yield from _calls(node, inside)


def _unguarded(text: str) -> list[str]:
    """The launches in Python code that do not choose the device of their tensors."""
    found = []
    for call, guarded in _calls(ast.parse(text)):
        function = call.func
        of_core = isinstance(function, ast.Attribute) and function.attr.startswith("cuda_")
        if of_core and ast.unparse(function.value) == "torch":
            continue
        asks = of_core and (function.attr in ASK_ONLY or _has_workspace_of_0(call))
        by_name = isinstance(function, ast.Call) and "cuda_" in ast.unparse(function)
        with_grid = isinstance(function, ast.Subscript) and "_kernel" in ast.unparse(function.value)
        if ((of_core and not asks) or by_name or with_grid) and not guarded:
            found.append(f"line {call.lineno}: {ast.unparse(function)}")
    return found


def _has_workspace_of_0(call: ast.Call) -> bool:
    """Such a call says how large the workspace must be."""
    return any(k.arg == "workspace" and ast.unparse(k.value) == "0" for k in call.keywords)


def test_no_launch_without_a_device_guard():
    found = {str(p): lines for p in SOURCES if (lines := _unguarded(p.read_text()))}
    assert not found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("core.cuda_forward(x)", 1),
        ("with torch.cuda.device_of(x):\n    core.cuda_forward(x)", 0),
        ("getattr(core, f'cuda_{f}')(x)", 1),
        ("conv_kernel[(3,)](x)", 1),
        ("with _on(x.device):\n    if y:\n        conv_kernel[(3,)](x)", 0),
        ("core.cuda_partial_sums(shape)", 0),
    ],
)
def test_the_lint_sees(text, count):
    assert len(_unguarded(text)) == count


ALLOCATES = re.compile(
    r"\b(cuda(Malloc|Free|Memcpy|HostAlloc|DeviceSynchronize|StreamSynchronize|EventSynchronize)"
    r"\w*|malloc|calloc|realloc|new\s+\w+|std::vector|std::make_unique|std::make_shared)\b"
)
# On the host, from the arguments: no memory of the device.
ON_THE_HOST = {"pyramid_pool_cuda.h": {"std::vector"}}


def test_no_launcher_allocates_or_waits():
    for path in sorted([*ROOT.glob("csrc/*/*_cuda.cu"), *ROOT.glob("csrc/*/*cuda*.h")]):
        if path.parent.name == "testing":
            continue
        text = re.sub(r"//.*", "", path.read_text())
        found = {m[0] for m in ALLOCATES.finditer(text)} - ON_THE_HOST.get(path.name, set())
        assert not found, f"{path}: {found}"


def test_allocations_are_seen():
    for line in ("cudaMalloc(&p, 4);", "auto* p = new float[4];", "cudaStreamSynchronize(s);"):
        assert ALLOCATES.search(line)


class _OnDevice:
    """Stands for a tensor on a GPU."""

    is_cuda, device = True, torch.device("cuda")

    def __init__(self) -> None:
        self.streams: list[str] = []

    def data_ptr(self) -> int:
        return id(self)

    def record_stream(self, stream: str) -> None:
        self.streams.append(stream)


@pytest.fixture
def cuda(monkeypatch):
    """A device whose current stream is "side"; `capturing` can be set."""
    state = SimpleNamespace(capturing=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.capturing)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "side")
    monkeypatch.setattr(_streams, "_in_graphs", {})
    return state


def test_a_table_of_a_cache_knows_the_streams_that_read_it(cuda):
    table = _OnDevice()
    _streams.in_use(table, torch.empty(1))
    assert table.streams == ["side"]
    assert not _streams._in_graphs


def test_a_table_that_a_graph_reads_is_kept(cuda):
    cuda.capturing = True
    table = _OnDevice()
    _streams.in_use(table)
    assert list(_streams._in_graphs.values()) == [table]


def test_no_table_is_copied_inside_a_capture(cuda):
    cuda.capturing = True
    with pytest.raises(RuntimeError, match="dilated_conv2d: the first call with these sizes"):
        _streams.copied(torch.empty(3), torch.device("cuda"), "dilated_conv2d")
    assert _streams.copied(torch.ones(3), torch.device("cpu"), "x").sum() == 3


def test_which_errors_a_launch_answers_for(tmp_path):
    """A fault of an earlier kernel is not blamed on the op that notices it."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on the PATH")
    source = tmp_path / "errors.cu"
    source.write_text(
        '#include "common/cuda_launch.h"\n'
        "#include <cstdio>\n"
        "int main() {\n"
        "  for (int e = 0; e < 1000; ++e)\n"
        "    if (fastseg::is_of_earlier_work(static_cast<cudaError_t>(e)))\n"
        '      std::printf("%s ", cudaGetErrorName(static_cast<cudaError_t>(e)));\n'
        "}\n"
    )
    program = tmp_path / "errors"
    run([nvcc, "-std=c++17", f"-I{ROOT / 'csrc'}", "-o", program, source])
    named = run([program]).split()
    assert "cudaErrorIllegalAddress" in named and "cudaErrorLaunchFailure" in named
    assert not {"cudaErrorInvalidConfiguration", "cudaErrorNoDevice", "cudaSuccess"} & set(named)
