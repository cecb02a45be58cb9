"""What the machine code of CUDA kernels says: loops, waits for loads, widths, double precision.

    python tools/sass.py FILE.cubin [REGEX]    one line per loop of each kernel that matches

The disassembler comes with CUDA, and with the triton wheel.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_INSTRUCTION = re.compile(
    r"/\*([0-9a-f]{4,6})\*/\s+(?:(@!?U?P[T\d]+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);"
)
_REGISTER = re.compile(r"\bR(\d+)\b")
_LOADS = ("LDG", "LD")
_STORES = ("STG", "ST")
_ARITHMETIC = ("FFMA", "FADD", "FMUL", "DFMA", "DADD", "DMUL", "MUFU")
# Instructions that other warps' instructions need about as long for as a load takes.
_SOON = 100
# A load's register is not looked for beyond so many instructions: it is far enough.
_FAR = 500


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of the disassembly, such as `@P0 LDG.E.128.CONSTANT R4, desc[UR8][R2.64]`."""

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.split(".", 1)[0]

    @property
    def bits(self) -> int:
        """Width of a memory access."""
        found = re.search(r"\.[US]?(8|16|64|128)(?:\.|$)", self.opcode)
        return int(found[1]) if found else 32

    def is_double(self) -> bool:
        return self.name in ("DADD", "DFMA", "DMUL", "DSETP") or ".F64" in self.opcode

    def is_wide_product(self) -> bool:
        """Whether it multiplies or adds with 64 bits, as index arithmetic in int64 does."""
        return self.opcode.startswith(("IMAD.WIDE", "IMAD.HI"))


@dataclasses.dataclass(frozen=True)
class Loop:
    """A backward branch and what lies before it, as positions in the list of instructions."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def contains(self, other: Loop) -> bool:
        return self != other and self.first <= other.first and other.last <= self.last


def disassembler() -> str | None:
    """Path of cuobjdump, or None."""
    if found := shutil.which("cuobjdump"):
        return found
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(path) if path.is_file() else None


def disassemble(tool: str, cubin: Path) -> dict[str, list[Instruction]]:
    """The instructions of each kernel, by mangled name."""
    text = subprocess.run(
        [tool, "-sass", str(cubin)], capture_output=True, text=True, check=True
    ).stdout
    kernels = {}
    for part in re.split(r"\n\s*Function : ", text)[1:]:
        name, body = part.split("\n", 1)
        kernels[name.strip()] = parse(body)
    return kernels


def parse(text: str) -> list[Instruction]:
    """The instructions of one kernel's disassembly."""
    return [
        Instruction(int(address, 16), predicate, opcode, operands.strip())
        for address, predicate, opcode, operands in _INSTRUCTION.findall(text)
    ]


def loops(code: list[Instruction]) -> list[Loop]:
    """Every loop, in the order of its first instruction."""
    position = {instruction.address: i for i, instruction in enumerate(code)}
    spans = set()
    for i, instruction in enumerate(code):
        if instruction.name != "BRA":
            continue
        target = re.search(r"0x([0-9a-f]+)", instruction.operands)
        first = position.get(int(target[1], 16)) if target else None
        if first is not None and first < i:  # a branch to itself ends the kernel's code
            spans.add((first, i))
    return [Loop(first, last) for first, last in sorted(spans)]


def hot_loop(code: list[Instruction]) -> Loop | None:
    """Of the innermost loops that read global memory, the one that computes most.

    Of equals the shortest: where a kernel has a way for the inside of a map and one for its border,
    both compute the same, and the border's is longer. Without a loop that reads: the longest.
    """
    found = loops(code)
    reading = [loop for loop in found if any(i.name in _LOADS for i in _body(code, loop))]
    reading = [loop for loop in reading if not any(loop.contains(other) for other in reading)]
    if not reading:
        inner = (loop for loop in found if not any(loop.contains(other) for other in found))
        return max(inner, key=len, default=None)

    def arithmetic(loop: Loop) -> int:
        return sum(i.name in _ARITHMETIC for i in _body(code, loop))

    return max(reading, key=lambda loop: (arithmetic(loop), -len(loop)))


def _body(code: list[Instruction], loop: Loop | None) -> list[Instruction]:
    return code[loop.first : loop.last + 1] if loop else []


def first_use(code: list[Instruction], at: int, loop: Loop | None) -> int:
    """How many instructions after the load at `at` its value is needed; a barrier counts as need.

    Follows the loop around once. A predicated-off path is taken as straight line.
    """
    match = _REGISTER.match(code[at].operands)
    if match is None:
        return _FAR
    lowest = int(match[1])
    loaded = {lowest + k for k in range(max(1, code[at].bits // 32))}
    if loop is None:
        path = range(at + 1, len(code))
    else:
        path = [*range(at + 1, loop.last + 1), *range(loop.first, at)]
    for distance, i in enumerate(path, 1):
        if distance >= _FAR:
            break
        instruction = code[i]
        if instruction.name == "BAR" or loaded & _read(instruction):
            return distance
    return _FAR


def early(code: list[Instruction], loop: Loop | None) -> int:
    """How many global loads of a loop are waited for before `_SOON` instructions have passed and
    before a barrier, at which a block waits anyway."""
    count = 0
    for i in range(loop.first, loop.last + 1) if loop else ():
        if code[i].name not in _LOADS:
            continue
        distance = first_use(code, i, loop)
        path = [*range(i + 1, loop.last + 1), *range(loop.first, i)]  # type: ignore[union-attr]
        at_barrier = distance <= len(path) and code[path[distance - 1]].name == "BAR"
        count += distance < _SOON and not at_barrier
    return count


def _first_uses(code: list[Instruction], loop: Loop | None) -> list[int]:
    """`first_use` of every global load of a loop."""
    if loop is None:
        return []
    positions = range(loop.first, loop.last + 1)
    return [first_use(code, i, loop) for i in positions if code[i].name in _LOADS]


def _read(instruction: Instruction) -> set[int]:
    """The registers that an instruction reads; what it only writes comes first in its operands."""
    parts = instruction.operands.split(",")
    stores = instruction.name in (*_STORES, "STS", "STL", "RED", "BAR")
    if not stores and parts and _REGISTER.match(parts[0].strip()):
        parts = parts[1:]
    found = set()
    for part in parts:
        for match in _REGISTER.finditer(part):
            number = int(match[1])
            found.add(number)
            if ".64" in part or (instruction.bits > 32 and stores):
                found.update(number + k for k in range(1, instruction.bits // 32 or 2))
    return found


def measure(code: list[Instruction], value_bytes: int) -> dict[str, int | str]:
    """What is recorded of a kernel.

    Args:
        value_bytes: size of the values that it reads and writes; 8 for one in double precision.

    Returns:
        loop: instructions of the hot loop; values: that one pass of it loads from or stores to
        global memory, whichever are more; first_use: instructions between a global load of the loop
        and the first use of what it loads, the median (500: none); early: loads used within
        100 instructions and before a barrier; loads, stores: widths of its
        global accesses in bits; prmt, wide: byte permutations and 64-bit products in it; double:
        instructions in double precision of the whole kernel, 0 for a kernel that is of doubles
        itself.
    """
    loop = hot_loop(code)
    body = _body(code, loop)
    loads = [i.bits for i in body if i.name in _LOADS]
    stores = [i.bits for i in body if i.name in _STORES]
    waits = _first_uses(code, loop)
    return {
        "loop": len(body),
        "values": max(sum(loads), sum(stores)) // (8 * value_bytes),
        "first_use": statistics.median_low(waits) if waits else _FAR,
        "early": early(code, loop),
        "loads": _widths(loads),
        "stores": _widths(stores),
        "prmt": sum(i.name == "PRMT" for i in body),
        "wide": sum(i.is_wide_product() for i in body),
        "double": 0 if value_bytes == 8 else sum(i.is_double() for i in code),
    }


def _widths(bits: list[int]) -> str:
    """Such as "2x128 1x16"."""
    return " ".join(f"{n}x{width}" for width, n in sorted(Counter(bits).items(), reverse=True))


def _described(code: list[Instruction]) -> Iterator[str]:
    for loop in loops(code):
        kinds = Counter(i.name for i in _body(code, loop)).most_common(12)
        hot = " (hot)" if loop == hot_loop(code) else ""
        yield (
            f"  {code[loop.first].address:#x}: {len(loop)} instructions{hot}, first uses "
            f"{_first_uses(code, loop)}: " + ", ".join(f"{name} {n}" for name, n in kinds)
        )


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    tool = disassembler()
    if tool is None:
        print("no cuobjdump: install CUDA or the triton wheel", file=sys.stderr)
        return 1
    for name, code in disassemble(tool, Path(sys.argv[1])).items():
        if len(sys.argv) == 2 or re.search(sys.argv[2], name):
            print(name, len(code), "instructions")
            print("\n".join(_described(code)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
