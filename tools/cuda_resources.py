"""Registers, spills and shared memory of every CUDA kernel, as ptxas reports them, and what its hot
loop consists of, as sass.py reads it off the machine code.

    python tools/cuda_resources.py            compare with csrc/resources.json
    python tools/cuda_resources.py --update   write csrc/resources.json

Needs nvcc, not a GPU, and for the loops a disassembler (CUDA's own, or the triton wheel's).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import sass
from resource_table import Resources, Table, compare_or_write, wants_update

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "csrc" / "resources.json"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
DISASSEMBLED = ("sm_80", "sm_90")  # sm_100 differs from sm_90 too little to be read as well


def nvcc_release(nvcc: str) -> str:
    """Such as "13.0"."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release (\d+\.\d+)", text)
    assert match is not None, text
    return match.group(1)


def measure(nvcc: str, sources: list[Path], architectures: tuple[str, ...]) -> Table:
    """Compiles each source to machine code; reads the compiler's report, and the code."""
    table: Table = {}
    tool = sass.disassembler()
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            for architecture in architectures:
                options = ["-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", f"-arch={architecture}"]
                output = ["-cubin", "-o", f"{folder}/kernels.cubin", "-Xptxas=-v"]
                done = subprocess.run(
                    [nvcc, *options, *output, source], capture_output=True, text=True
                )
                if done.returncode != 0:
                    raise RuntimeError(f"{source} for {architecture}:\n{done.stderr}")
                for kernel, resources in _parse(done.stderr).items():
                    table.setdefault(kernel, {})[architecture] = resources
                if tool is None or architecture not in DISASSEMBLED:
                    continue
                for mangled, code in sass.disassemble(tool, Path(output[2])).items():
                    kernel = _short_name(mangled)
                    table[kernel][architecture] |= sass.measure(code, _value_bytes(kernel))
    return dict(sorted(table.items()))


def _parse(report: str) -> dict[str, Resources]:
    kernels: dict[str, Resources] = {}
    for part in re.split(r"ptxas info\s+: Compiling entry function '", report)[1:]:
        name = part[: part.index("'")]
        stack, stores, loads = (
            int(n)
            for n in re.search(
                r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
            ).groups()  # type: ignore[union-attr]
        )
        shared = re.search(r"(\d+) bytes smem", part)
        kernels[_short_name(name)] = {
            "registers": int(re.search(r"Used (\d+) registers", part).group(1)),  # type: ignore[union-attr]
            "spill_bytes": stores + loads,
            "stack_bytes": stack,
            "shared_bytes": int(shared.group(1)) if shared else 0,
        }
    return kernels


def _value_bytes(kernel: str) -> int:
    """Size of the values that a kernel reads and writes, from its template arguments."""
    return 8 if "<double" in kernel else 2 if "16_t" in kernel else 4


def _short_name(mangled: str) -> str:
    """The kernel and its template arguments, without namespaces and parameters."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None:
        return mangled
    text = subprocess.run([tool, mangled], capture_output=True, text=True, check=True).stdout
    text = re.sub(r"\(anonymous namespace\)::|<unnamed>::|\b\w+::", "", text.strip())
    # Values of an enumeration: "(Pass)0".
    text = re.sub(r"\(\w+\)(?=\d)", "", text.removeprefix("void "))
    return re.sub(r"\(.*\)$", "", text).strip()


def main() -> int:
    update = wants_update(__doc__)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("nvcc is not on the PATH", file=sys.stderr)
        return 1
    sources = sorted(ROOT.glob("csrc/*/*_cuda.cu"))
    measured = measure(nvcc, sources, ARCHITECTURES)
    return compare_or_write(TABLE, {"nvcc": nvcc_release(nvcc)}, measured, update)


if __name__ == "__main__":
    sys.exit(main())
