"""Registers, stack, shared memory and matrix instructions of every Triton kernel, compiled ahead.

    python tools/triton_resources.py            compare with tests/triton_kernels/resources.json
    python tools/triton_resources.py --update   write it

Needs triton, not a GPU.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tempfile
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

# Sizes in steps of 16, or that are when it matters.
ALIGNED = ("channels", "out_channels", "out_pixel_stride", "padded")

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
    """One compilation: a kernel with types of its arguments and values of its constants."""

    name: str
    function: Any
    types: dict[str, str]
    constants: dict[str, Any]
    stages: int

    def compile(self, architecture: int) -> Any:
        names = self.function.arg_names
        constants = {n: None for n in names if n not in self.types} | self.constants
        # What the launcher finds out about its arguments: sizes and addresses in steps of 16.
        aligned = [n for n, kind in self.types.items() if kind[0] == "*" or n in ALIGNED]
        source = ASTSource(
            fn=self.function,
            signature={n: self.types.get(n, "constexpr") for n in names},
            constexprs=constants,
            attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
        )
        options = {"num_warps": WARPS, "num_stages": self.stages}
        return triton.compile(source, GPUTarget("cuda", architecture, 32), options)


_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def _map_type(dtype: torch.dtype, block: list[int], descriptors: bool) -> str:
    name = _TYPES[dtype]
    return f"tensordesc<{name}{block}>" if descriptors else f"*{name}"


def conv(
    config: ConvConfig, dtype: torch.dtype, how: Precision, descriptors: bool, plain: bool = False
) -> Kernel:
    """conv_kernel with all that it can have: four branches, scale, shift, clamping; `plain`: with
    one branch and nothing else, as it computes a gradient."""
    branches = 1 if plain else 4
    sizes = "tile_count images height width channels out_height out_width out_channels"
    weight = _map_type(dtype, [1, config.out_channels, config.depth], descriptors)
    types = {
        "x": _map_type(dtype, [*config.box, config.depth], descriptors),
        **{f"weight{b}": weight for b in range(branches)},
        **({} if plain else {"scale": "*fp32", "shift": "*fp32"}),
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
        "SCALE": not plain,
        "SHIFT": not plain,
        "CLAMP": not plain,
        "PRECISION": how,
    }
    tile = "x".join(map(str, config.box))
    name = f"conv {_TYPES[dtype]} {how} {tile} pixels, {config.out_channels} channels"
    name += ", plain" if plain else ""
    return Kernel(name, conv_kernels.conv_kernel, types, constants, config.stages)


def gradient(
    config: GradientConfig, dtype: torch.dtype, how: Precision, descriptors: bool
) -> Kernel:
    """weight_gradient_kernel."""
    sizes = "images height width channels out_height out_width out_channels"
    types = {
        "grad": _map_type(dtype, [*config.box, config.out_channels], descriptors),
        "x": _map_type(dtype, [*config.box, config.channels], descriptors),
        "partial": "*fp32",
        "work": "*i32",
        **{n: "i32" for n in sizes.split()},
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
    return Kernel(name, conv_kernels.weight_gradient_kernel, types, constants, config.stages)


def gradient_sum() -> Kernel:
    """weight_gradient_sum_kernel."""
    types = {
        "partial": "*fp32",
        "first_slots": "*i32",
        "grad_weight": "*bf16",
        "out_channels": "i32",
        "channels": "i32",
    }
    function = conv_kernels.weight_gradient_sum_kernel
    return Kernel("sum of weight gradients", function, types, {"BLOCK": SUM_BLOCK}, stages=3)


def _gaussian(
    name: str, function: Any, kinds: dict[str, str], sizes: str, constants: dict[str, Any]
) -> Kernel:
    types = {**kinds, **{n: "i32" for n in sizes.split()}}
    name = f"gaussian {name}, {constants['DIMS']} features"
    if "PRECISION" in constants:
        name += f" {constants['PRECISION']}"
    return Kernel(name, function, types, constants, gaussian_config.STAGES)


_LISTS = {"order": "*i64", "near": "*i32", "counts": "*i32"}


def gaussian_filter(labels: int, dims: int, how: str) -> Kernel:
    """filter_kernel of gaussian_filter."""
    types = {**dict.fromkeys(("values", "features", "out"), "*fp32"), **_LISTS}
    sizes = "first tiles padded points labels padded_labels"
    tile = {"BT": gaussian_config.TILE, "BK": gaussian_config.KEYS, "BL": labels}
    constants = {"DIMS": dims, **tile, "PRECISION": how}
    name = f"filter {labels} labels"
    return _gaussian(name, gaussian_kernels.filter_kernel, types, sizes, constants)


def gaussian_gradient(dims: int, how: str) -> Kernel:
    """feature_gradient_kernel."""
    planes = dict.fromkeys(("grads", "values", "features", "grad_features"), "*fp32")
    sizes = "first tiles padded points padded_labels"
    tile = {"BT": gaussian_config.TILE, "BK": gaussian_config.KEYS}
    tile |= {"BL": gaussian_config.GRADIENT_LABELS, "BD": gaussian_config.dims_block(dims)}
    constants = {"DIMS": dims, **tile, "PRECISION": how}
    function = gaussian_kernels.feature_gradient_kernel
    return _gaussian("feature gradient", function, planes | _LISTS, sizes, constants)


def gaussian_order(dims: int) -> Kernel:
    """order_kernel."""
    bits, block = gaussian_config.order_bits(dims), gaussian_config.ORDER_BLOCK
    types = {"features": "*fp32", "lows": "*fp32", "codes": "*i64"}
    constants = {"DIMS": dims, "BITS": bits, "BLOCK": block}
    return _gaussian("order", gaussian_kernels.order_kernel, types, "points", constants)


def gaussian_near(dims: int) -> Kernel:
    """near_kernel."""
    types = {"lows": "*fp32", "highs": "*fp32", "near": "*i32", "counts": "*i32", "limit": "fp32"}
    constants = {"DIMS": dims, "BLOCK": gaussian_config.NEAR_BLOCK}
    return _gaussian("near", gaussian_kernels.near_kernel, types, "first tiles", constants)


def gaussian() -> list[Kernel]:
    """Every tile of gaussian_filter with the most features, and what a CRF uses."""
    most = gaussian_config.MAX_DIMS
    return [
        *(gaussian_filter(labels, most, "tf32x3") for labels in gaussian_config.LABELS),
        gaussian_filter(32, 5, "tf32x3"),
        gaussian_filter(32, 5, "tf32"),
        gaussian_filter(16, 2, "tf32x3"),
        gaussian_gradient(most, "tf32x3"),
        gaussian_gradient(5, "tf32"),
        gaussian_order(most),
        gaussian_near(most),
    ]


def kernels(architecture: int) -> list[Kernel]:
    """Every tile that runs on this architecture, float16 being as bfloat16."""
    descriptors = architecture >= 90
    found = []
    kinds: tuple[tuple[torch.dtype, Precision], ...] = (
        (torch.bfloat16, "ieee"),
        (torch.float32, "tf32"),
        (torch.float32, "ieee"),
    )
    for dtype, how in kinds:
        kind = (dtype, how, descriptors)
        found += [conv(config, *kind) for config in conv_configs(*kind)]
        found.append(conv(conv_configs(*kind)[0], *kind, plain=True))
        found += [gradient(config, *kind) for config in gradient_configs(*kind)]
    return [*found, gradient_sum(), *gaussian()]


def measure(architectures: tuple[int, ...] = ARCHITECTURES) -> Table:
    """Compiles all of them and reads what the assembler says."""
    table: Table = {}
    for architecture in architectures:
        for kernel in kernels(architecture):
            compiled = kernel.compile(architecture)
            table.setdefault(kernel.name, {})[f"sm_{architecture}"] = {
                **_usage(compiled.asm["cubin"]),
                "shared_bytes": compiled.metadata.shared,
                **{n: compiled.asm["ptx"].count(text) for n, text in INSTRUCTIONS.items()},
            }
    return dict(sorted(table.items()))


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
    return compare_or_write(TABLE, "triton", triton.__version__, measure(), update)


if __name__ == "__main__":
    sys.exit(main())
