"""Running out of memory is a MemoryError: nothing ends the process, and the next call works.

In child processes, because what is tested for would end this one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="limits and preloads of Linux")


def _child(code: str, timeout: int = 300, **environment: str) -> str:
    """What a child process prints; the test fails when that does not end well."""
    prelude = f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


EXPANDED = """
import torch
import fastseg

def expanded(*shape):
    return torch.zeros(1).expand(shape)

target = torch.zeros(1, 32, 32, dtype=torch.int64)
CALLS = {
    "argmax": lambda x: fastseg.upsample_argmax(x, (32, 32)),
    "cross entropy": lambda x: fastseg.upsample_cross_entropy(x, target),
    "confusion matrix": lambda x: fastseg.upsample_confusion_matrix(x, target),
    "bilinear": lambda x: fastseg.upsample_bilinear(x, (32, 32)),
    "pool": lambda x: fastseg.pyramid_pool(x, (1,)),
}
SHAPES = ((1, 10**11, 16, 1), (1, 10**11, 1, 16), (1, 2**55, 16, 8), (2**40, 2**10, 3, 4),
          (1, 2**61, 2, 1))
torch.set_num_threads({threads})
for name, call in CALLS.items():
    for shape in SHAPES:
        try:
            call(expanded(*shape))
        except MemoryError:
            pass
        except (RuntimeError, ValueError) as error:  # torch's: of the result, or of the target
            assert "memory" in str(error) or "overflow" in str(error) or "target" in str(error), (
                name, shape, error)
        else:
            raise AssertionError((name, shape))
print("ended well")
"""


@linux_only
@pytest.mark.parametrize("threads", [1, 3])
def test_tensors_expanded_beyond_any_memory(threads: int):
    assert "ended well" in _child(EXPANDED.replace("{threads}", str(threads)), timeout=120)


@pytest.fixture(scope="module")
def failing_allocations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets allocations fail."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("preload") / "failing_allocations.so"
    source = HERE / "failing_allocations.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", source, "-o", path, "-ldl"], check=True)
    return path


EACH_ALLOCATION_FAILS = """
import ctypes
import torch
from kernel_calls import all_calls

preloaded = ctypes.CDLL(None)
torch.set_num_threads(2)
failed = calls = 0
for name, call in all_calls():
    preloaded.fail_after(-1)
    expected = call()
    preloaded.fail_after(-1)
    call()
    count = preloaded.allocations()
    # Those of a loop are alike: the first ones, and a few of the others.
    for at in sorted({*range(min(count, 12)), *range(12, count, max(1, count // 8))}):
        preloaded.fail_after(at)
        try:
            call()
        except MemoryError:
            failed += 1
        calls += 1
    preloaded.fail_after(-1)
    again = call()
    assert all(map(torch.equal, expected, again)), name
print(failed, calls)
"""


@pytest.mark.slow
def test_each_allocation_of_each_kernel_may_fail(failing_allocations: Path):
    """Each allocation of each op's samples and of the CRFs fails once, with all after it."""
    printed = _child(EACH_ALLOCATION_FAILS, LD_PRELOAD=str(failing_allocations))
    failed, calls = map(int, printed.split())
    assert failed > 500
    assert failed > 0.9 * calls, printed  # in another order of the threads, some may go through


ADDRESS_SPACE = """
import resource
import torch
from kernel_calls import all_calls

def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

limited = refused = 0
def run(call, threads, room):
    global limited, refused
    # torch's own threads, which are there before: that they cannot start is not our matter
    torch.set_num_threads(threads)
    torch.zeros(1 << 20).add_(1)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used() + room, hard))
    try:
        return call()
    except MemoryError:
        refused += 1
    except RuntimeError as error:
        assert "can't allocate memory" in str(error), error  # torch's
        refused += 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        limited += 1

for index, (name, call) in enumerate(all_calls()):
    for threads in (3, 2, 5):
        expected = None
        # Below one thread's stack, enough for one, and enough for all.
        for room in (1 << 16, 9 << 20, 1 << 30):
            result = run(call, threads, room)
            if result is not None:
                expected = result if expected is None else expected
                assert all(map(torch.equal, expected, result)), (name, threads, room)
        assert expected is not None, name
print(limited, refused)
"""


@pytest.mark.slow
@linux_only
def test_limited_address_space():
    """As under `ulimit -v`: too few threads can start, or none; results have the same bits."""
    limited, refused = map(int, _child(ADDRESS_SPACE).split())
    assert limited > 500
    assert refused < limited
