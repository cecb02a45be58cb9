"""Registers, stack, shared memory and matrix instructions of every Triton kernel, compiled ahead.

    python tools/triton_resources.py            compare with tests/triton_kernels/resources.json
    python tools/triton_resources.py --update   write it

Needs triton, not a GPU.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from resource_table import Resources, Table, compare_or_write, wants_update
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastseg.ops.dilated_conv2d import triton_kernels as conv_kernels
from fastseg.ops.dilated_conv2d.triton_config import (
    SUM_BLOCK,
    WARPS,
    ConvConfig,
    GradientConfig,
    Precision,
    conv_configs,
    gradient_configs,
)
from fastseg.ops.gaussian_filter import triton_config as gaussian_config
from fastseg.ops.gaussian_filter import triton_kernels as gaussian_kernels

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "triton_kernels" / "resources.json"
ARCHITECTURES = (80, 90, 100)

# What the kernels are made of: where it is as it was when the table was written, so is the table.
SOURCES = tuple(
    ROOT / "fastseg" / "ops" / op / f"triton_{part}.py"
    for op in ("dilated_conv2d", "gaussian_filter")
    for part in ("config", "kernels")
)

# Sizes in steps of 16 in most networks: the launcher says so to the compiler where it is so.
CHANNELS = ("channels", "out_channels", "out_pixel_stride")
# Always so.
ALIGNED = ("padded",)

# What is counted in the PTX of a kernel.
INSTRUCTIONS = {
    "wgmma": "wgmma.mma_async",
    "tcgen05": "tcgen05.mma",
    "mma": "mma.sync",
    "tma_loads": "cp.async.bulk.tensor",
    "async_copies": "cp.async.c",
    "matrix_loads": "ldmatrix",
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One compilation: a kernel with types of its arguments and values of its constants.

    Attributes:
        aligned: sizes that are in steps of 16.
        often: whether every run of the tests compiles it, not only a change of the kernels.
    """

    name: str
    function: Any
    types: dict[str, str]
    constants: dict[str, Any]
    stages: int
    aligned: tuple[str, ...] = ALIGNED
    often: bool = True

    def compile(self, architecture: int) -> Any:
        names = self.function.arg_names
        constants = {n: None for n in names if n not in self.types} | self.constants
        # What the launcher finds out about its arguments: sizes and addresses in steps of 16.
        aligned = [n for n, kind in self.types.items() if kind[0] == "*" or n in self.aligned]
        source = ASTSource(
            fn=self.function,
            signature={n: self.types.get(n, "constexpr") for n in names},
            constexprs=constants,
            attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
        )
        options = {"num_warps": WARPS, "num_stages": self.stages}
        return triton.compile(source, GPUTarget("cuda", architecture, 32), options)


_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# With what conv_kernel is launched besides the maps: the most that branches of an ASPP have;
# nothing, as a gradient; a bias, and channels in no steps of 16, as for 19 classes. (On sm_80 the
# backend asks for such steps of the channels of what goes in.)
EXTRAS = ("", "plain", "odd channels")


def _map_type(dtype: torch.dtype, block: list[int], descriptors: bool) -> str:
    name = _TYPES[dtype]
    return f"tensordesc<{name}{block}>" if descriptors else f"*{name}"


def conv(
    config: ConvConfig,
    dtype: torch.dtype,
    how: Precision,
    descriptors: bool,
    extra: str,
    first: bool,
) -> Kernel:
    """conv_kernel with what EXTRAS says."""
    branches = 4 if extra == "" else 1
    shift = {"shift": "*fp32" if extra == "" else f"*{_TYPES[dtype]}"} if extra != "plain" else {}
    sizes = "tile_count images height width channels out_height out_width out_channels"
    weight = _map_type(dtype, [1, config.out_channels, config.depth], descriptors)
    types = {
        "x": _map_type(dtype, [*config.box, config.depth], descriptors),
        **{f"weight{b}": weight for b in range(branches)},
        **({"scale": "*fp32"} if extra == "" else {}),
        **shift,
        "out": f"*{_TYPES[dtype]}",
        "tiles": "*i32",
        **{n: "i32" for n in [*sizes.split(), "out_pixel_stride"]},
        "limit": "fp32",
    }
    constants = {
        **dict(zip(("BI", "BH", "BW"), config.box, strict=True)),
        "BN": config.out_channels,
        "BK": config.depth,
        "BRANCHES": branches,
        "DESCRIPTORS": descriptors,
        "SCALE": extra == "",
        "SHIFT": extra != "plain",
        "CLAMP": extra == "",
        "PRECISION": how,
    }
    tile = "x".join(map(str, config.box))
    name = f"conv {_TYPES[dtype]} {how} {tile} pixels, {config.out_channels} channels"
    name += f", {extra}" if extra else ""
    aligned = CHANNELS
    if extra == "odd channels":
        aligned = () if descriptors else ("channels",)
    often = dtype is not torch.float16 and (extra == "" or (first and extra == "plain"))
    function = conv_kernels.conv_kernel
    return Kernel(name, function, types, constants, config.stages, aligned, often)


def gradient(
    config: GradientConfig, dtype: torch.dtype, how: Precision, descriptors: bool, odd: bool
) -> Kernel:
    """weight_gradient_kernel; `odd`: of channels in no steps of 16."""
    sizes = "images height width channels out_height out_width out_channels"
    types = {
        "grad": _map_type(dtype, [*config.box, config.out_channels], descriptors),
        "x": _map_type(dtype, [*config.box, config.channels], descriptors),
        "partial": "*fp32",
        "work": "*i32",
        **{n: "i32" for n in [*sizes.split(), "padded"]},
    }
    constants = {
        **dict(zip(("BI", "BH", "BW"), config.box, strict=True)),
        "BM": config.out_channels,
        "BN": config.channels,
        "DESCRIPTORS": descriptors,
        "PRECISION": how,
    }
    tile = "x".join(map(str, config.box))
    size = f"{config.out_channels}x{config.channels}"
    name = f"weight gradient {_TYPES[dtype]} {how} {tile} pixels, {size} channels"
    name += ", odd channels" if odd else ""
    aligned = ALIGNED if odd else ALIGNED + CHANNELS
    often = dtype is not torch.float16 and not odd
    function = conv_kernels.weight_gradient_kernel
    return Kernel(name, function, types, constants, config.stages, aligned, often)


def gradient_sum(dtype: torch.dtype) -> Kernel:
    """weight_gradient_sum_kernel."""
    types = {
        "partial": "*fp32",
        "first_slots": "*i32",
        "grad_weight": f"*{_TYPES[dtype]}",
        "out_channels": "i32",
        "channels": "i32",
        "padded": "i32",
    }
    function = conv_kernels.weight_gradient_sum_kernel
    name = f"sum of weight gradients {_TYPES[dtype]}"
    often = dtype is torch.bfloat16
    return Kernel(name, function, types, {"BLOCK": SUM_BLOCK}, stages=3, often=often)


def _gaussian(
    name: str,
    function: Any,
    kinds: dict[str, str],
    sizes: str,
    constants: dict[str, Any],
    often: bool,
) -> Kernel:
    types = {**kinds, **{n: "i32" for n in sizes.split()}}
    name = f"gaussian {name}, {constants['DIMS']} features"
    if "PRECISION" in constants:
        name += f" {constants['PRECISION']}"
    return Kernel(name, function, types, constants, gaussian_config.STAGES, often=often)


_LISTS = {"order": "*i64", "near": "*i32", "counts": "*i32"}


_MOST = gaussian_config.MAX_DIMS
# What a CRF uses, beside every tile with the most features.
_OFTEN = {(32, 5, "tf32x3"), (32, 5, "tf32"), (16, 2, "tf32x3")}


def gaussian_filter(labels: int, dims: int, how: str) -> Kernel:
    """filter_kernel of gaussian_filter."""
    types = {**dict.fromkeys(("values", "features", "out"), "*fp32"), **_LISTS}
    sizes = "first tiles padded points labels padded_labels"
    tile = {"BT": gaussian_config.TILE, "BK": gaussian_config.KEYS, "BL": labels}
    constants = {"DIMS": dims, **tile, "PRECISION": how}
    name = f"filter {labels} labels"
    often = (dims, how) == (_MOST, "tf32x3") or (labels, dims, how) in _OFTEN
    return _gaussian(name, gaussian_kernels.filter_kernel, types, sizes, constants, often)


def gaussian_gradient(dims: int, how: str) -> Kernel:
    """feature_gradient_kernel."""
    planes = dict.fromkeys(("grads", "values", "features", "grad_features"), "*fp32")
    sizes = "first tiles padded points padded_labels"
    tile = {"BT": gaussian_config.TILE, "BK": gaussian_config.KEYS}
    tile |= {"BL": gaussian_config.GRADIENT_LABELS, "BD": gaussian_config.dims_block(dims)}
    constants = {"DIMS": dims, **tile, "PRECISION": how}
    function = gaussian_kernels.feature_gradient_kernel
    often = (dims, how) in ((_MOST, "tf32x3"), (5, "tf32"))
    return _gaussian("feature gradient", function, planes | _LISTS, sizes, constants, often)


def gaussian_order(dims: int) -> Kernel:
    """order_kernel."""
    bits, block = gaussian_config.order_bits(dims), gaussian_config.ORDER_BLOCK
    types = {"features": "*fp32", "lows": "*fp32", "codes": "*i64"}
    constants = {"DIMS": dims, "BITS": bits, "BLOCK": block}
    function, often = gaussian_kernels.order_kernel, dims == _MOST
    return _gaussian("order", function, types, "points", constants, often)


def gaussian_near(dims: int) -> Kernel:
    """near_kernel."""
    types = {"lows": "*fp32", "highs": "*fp32", "near": "*i32", "counts": "*i32", "limit": "fp32"}
    constants = {"DIMS": dims, "BLOCK": gaussian_config.NEAR_BLOCK}
    function, often = gaussian_kernels.near_kernel, dims == _MOST
    return _gaussian("near", function, types, "first tiles", constants, often)


def gaussian() -> Iterator[Kernel]:
    """Every tile of gaussian_filter with every number of features, in both precisions."""
    for dims in range(1, _MOST + 1):
        for how in ("tf32x3", "tf32"):
            for labels in gaussian_config.LABELS:
                yield gaussian_filter(labels, dims, how)
            yield gaussian_gradient(dims, how)
        yield gaussian_order(dims)
        yield gaussian_near(dims)


def convolution(architecture: int) -> Iterator[Kernel]:
    """Every tile of dilated_conv2d in every dtype, with each of EXTRAS."""
    descriptors = architecture >= 90
    kinds: tuple[tuple[torch.dtype, Precision], ...] = (
        (torch.bfloat16, "ieee"),
        (torch.float16, "ieee"),
        (torch.float32, "tf32"),
        (torch.float32, "ieee"),
    )
    for dtype, how in kinds:
        kind = (dtype, how, descriptors)
        for i, tile in enumerate(conv_configs(*kind)):
            for extra in EXTRAS:
                yield conv(tile, *kind, extra, i == 0)
        for odd in (False, True)[: 2 if descriptors else 1]:
            for pair in gradient_configs(*kind):
                yield gradient(pair, *kind, odd)
    for dtype in _TYPES:
        yield gradient_sum(dtype)


def kernels(architecture: int) -> list[Kernel]:
    """Everything that a launch on this architecture may ask Triton for."""
    return [*convolution(architecture), *gaussian()]


def sources() -> str:
    """A digest of the kernels and their tiles."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()


def measure(
    architectures: tuple[int, ...] = ARCHITECTURES, *, often: bool = False, processes: int = 2
) -> Table:
    """Compiles all of them, or those of every run of the tests; what the assembler says."""
    wanted = [
        (architecture, i)
        for architecture in architectures
        for i, kernel in enumerate(kernels(architecture))
        if kernel.often or not often
    ]
    table: Table = {}
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        for (architecture, i), found in zip(
            wanted, pool.map(_measure_one, wanted, chunksize=4), strict=True
        ):
            name = kernels(architecture)[i].name
            table.setdefault(name, {})[f"sm_{architecture}"] = found
    return dict(sorted(table.items()))


def _measure_one(which: tuple[int, int]) -> Resources:
    architecture, i = which
    compiled = kernels(architecture)[i].compile(architecture)
    return {
        **_usage(compiled.asm["cubin"]),
        "shared_bytes": compiled.metadata.shared,
        **{n: compiled.asm["ptx"].count(text) for n, text in INSTRUCTIONS.items()},
    }


def _usage(cubin: bytes) -> Resources:
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", report)
    assert match is not None, report
    return {"registers": int(match[1]), "stack_bytes": int(match[2])}


def main() -> int:
    update = wants_update(__doc__)
    made_with = {"triton": triton.__version__, "sources": sources()}
    return compare_or_write(TABLE, made_with, measure(), update)


if __name__ == "__main__":
    sys.exit(main())
