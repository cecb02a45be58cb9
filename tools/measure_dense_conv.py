"""Measures Triton's dense convolution beside cuDNN's and writes what the choice between them reads.

    python tools/measure_dense_conv.py                      print
    python tools/measure_dense_conv.py --rows FILE          and write each row as it is measured;
                                                            what FILE has is not measured again
    python tools/measure_dense_conv.py --update FILE        put the rows of FILE into the table of
                                                            this project, on any machine
    python tools/measure_dense_conv.py --only W2 --tiles    some workloads, with each tile

Measuring needs a GPU and triton. Both sides are timed as CUDA graphs, so that the time is the
device's alone, in turn, with an emptied cache: medians. cuDNN chooses its algorithm by trying
(torch.backends.cudnn.benchmark), its maps are channels_last. A row is not written unless Triton's
result is as accurate as cuDNN's. The table is fastseg/ops/dilated_conv2d/measured.json.
`--stand-in` goes through all of it on a CPU with small maps and without Triton: no row is of use.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fastseg import Backend, use_backend
from fastseg.bench.timing import Timing, Variant, time_interleaved
from fastseg.ops.dilated_conv2d import conv_branches, measured, triton_config
from fastseg.ops.dilated_conv2d.op import dilated_conv2d_backward_op, dilated_conv2d_op
from fastseg.ops.dilated_conv2d.triton_tiles import Taps
from fastseg.testing import assert_as_accurate

DEVICE = "cuda"  # --stand-in: "cpu"
KINDS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32}


@dataclasses.dataclass(frozen=True)
class Workload:
    """A 3x3 convolution that keeps the size, without and with bias and ReLU ("branches"); or, of
    several rates, the branches of an ASPP."""

    name: str
    shape: tuple[int, int, int, int]
    out_channels: int
    rates: tuple[int, ...]

    def taps(self) -> tuple[Taps, ...]:
        threes = tuple(Taps.of_forward((3, 3), (r, r), (r, r)) for r in self.rates)
        one = Taps.of_forward((1, 1), (0, 0), (1, 1))
        return threes if len(self.rates) == 1 else (one, *threes)


WORKLOADS = (
    Workload("W1a PSPNet layer4", (8, 512, 90, 90), 512, (4,)),
    Workload("W1a N1 PSPNet layer4", (1, 512, 90, 90), 512, (4,)),
    Workload("W1b PSPNet layer3", (8, 256, 90, 90), 256, (2,)),
    Workload("W1c DeepLab layer4 OS16", (8, 512, 33, 33), 512, (2,)),
    *(
        Workload(f"W2 r{r} N{n} ASPP branch", (n, 2048, 33, 33), 256, (r,))
        for n in (1, 8)
        for r in (1, 6, 12, 18)  # 1: what the rate costs cuDNN
    ),
    *(Workload(f"W2b r{r} N8 ASPP branch OS8", (8, 2048, 97, 97), 256, (r,)) for r in (12, 24, 36)),
    Workload("W2 N1 ASPP", (1, 2048, 33, 33), 256, (6, 12, 18)),
    Workload("W2 N8 ASPP", (8, 2048, 33, 33), 256, (6, 12, 18)),
    Workload("W2b N1 ASPP OS8", (1, 2048, 97, 97), 256, (12, 24, 36)),
    Workload("W2b N8 ASPP OS8", (8, 2048, 97, 97), 256, (12, 24, 36)),
)


def graphed(function: Callable[[], Any]) -> Callable[[], Any]:
    """A function that replays what `function` does on the device."""
    if DEVICE == "cpu":
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def functions(workload: Workload, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Name of the function, and f(cast) that computes it on inputs cast to a dtype."""
    n, c, h, w = workload.shape
    o = workload.out_channels

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(shape, device=DEVICE) * scale
        return x.to(dtype).contiguous(memory_format=torch.channels_last)

    x = random(n, c, h, w)
    if len(workload.rates) > 1:
        weights = [random(o, c, *t.kernel, scale=(c * t.count) ** -0.5) for t in workload.taps()]
        shift = torch.randn(o * len(weights), device=DEVICE)
        rates = (1, *workload.rates)
        yield (
            "branches",
            lambda to: conv_branches(x.to(to), [v.to(to) for v in weights], rates, None, shift),
        )
        return
    weight, grad = random(o, c, 3, 3, scale=(9 * c) ** -0.5), random(n, o, h, w)
    rate, bias = [workload.rates[0]] * 2, torch.randn(o, device=DEVICE)
    yield "branches", lambda to: conv_branches(x.to(to), [weight.to(to)], rate[:1], None, bias)
    geometry = ([1, 1], rate, rate, 1)
    yield "forward", lambda to: dilated_conv2d_op(x.to(to), weight.to(to), None, *geometry)
    mask = [True, True, False]
    yield (
        "backward",
        lambda to: dilated_conv2d_backward_op(
            grad.to(to), x.to(to), weight.to(to), *geometry, mask
        )[:2],
    )


def forced(backend: Backend, function: Callable[[Any], Any], dtype: torch.dtype) -> Any:
    if DEVICE == "cpu":
        backend = Backend.TORCH

    def run() -> Any:
        with use_backend(backend):
            return function(dtype)

    return run


def check(function: Callable[[Any], Any], dtype: torch.dtype) -> None:
    """Raises unless Triton is as accurate as cuDNN is."""
    sides = [forced(b, function, dtype)() for b in (Backend.TRITON, Backend.TORCH)]
    sides.append(forced(Backend.TORCH, function, torch.float64)())
    for ours, peer, truth in zip(
        *(s if isinstance(s, tuple) else (s,) for s in sides), strict=True
    ):
        assert_as_accurate(ours, peer, truth)


def timed(variants: dict[str, Callable[[], Any]]) -> dict[str, Timing]:
    """Each of them, in turn."""
    each = [Variant(label, lambda _, run=run: run()) for label, run in variants.items()]
    return time_interleaved(each, device=DEVICE, budget_s=0.5, min_rounds=11)


def row(workload: Workload, kind: str, name: str, function: Callable[[Any], Any]) -> dict[str, Any]:
    dtype = KINDS[kind]
    check(function, dtype)
    variants = {
        side: graphed(forced(backend, function, dtype))
        for side, backend in (("cudnn", Backend.TORCH), ("triton", Backend.TRITON))
    }
    timings = timed(variants)
    described = measured.description(
        name, workload.shape, kind, workload.out_channels, workload.shape[2:], workload.taps()
    )
    times = {f"{side}_us": round(timings[side].median * 1e6, 1) for side in variants}
    return {"workload": workload.name, **described, **times}


def tile_times(workload: Workload, kind: str) -> None:
    """Prints the time of the forward with each tile."""
    from fastseg.ops.dilated_conv2d import triton_tables

    dtype = KINDS[kind]
    configs = triton_config.conv_configs
    descriptors = torch.cuda.get_device_capability()[0] >= 9
    every = configs(dtype, triton_config.precision(dtype), descriptors)
    for name, function in functions(workload, dtype):
        if name == "backward":
            continue
        variants = {}
        for config in every:
            triton_tables.conv_configs = lambda *_, config=config: [config]
            triton_tables.best_conv_config.cache_clear()
            variants[str(config.box)] = graphed(forced(Backend.TRITON, function, dtype))
        triton_tables.conv_configs = configs
        triton_tables.best_conv_config.cache_clear()
        timings = timed(variants)
        line = ", ".join(f"{s} {timings[s].median * 1e6:.1f} us" for s in variants)
        print(f"    {name} by tile: {line}")


def environment() -> dict[str, Any]:
    """What the rows of a GPU are measured with."""
    import triton

    return {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
    }


def measured_rows(path: Path | None) -> dict[str, list[dict[str, Any]]]:
    """By GPU, the rows of a file that holds one in each line."""
    found: dict[str, list[dict[str, Any]]] = {}
    if path is not None and path.is_file():
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry.pop("gpu"), []).append(entry)
    return found


def update(path: Path) -> int:
    """Replaces the rows of the GPUs in a file of rows."""
    table = json.loads(measured.FILE.read_text())
    for gpu, entries in measured_rows(path).items():
        made_with = {k: v for k, v in entries[-1].items() if k != "row"}
        table["gpus"][gpu] = {**made_with, "rows": [e["row"] for e in entries]}
    measured.FILE.write_text(json.dumps(table, indent=1) + "\n")
    print(f"written: {measured.FILE}")
    return 0


def main() -> int:
    global DEVICE
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, help="file that rows are appended to")
    parser.add_argument("--update", type=Path, metavar="FILE", help="put its rows into the table")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--tiles", action="store_true", help="time every tile too")
    parser.add_argument("--kinds", nargs="+", default=["bfloat16", "tf32"], choices=list(KINDS))
    parser.add_argument(
        "--stop-after", type=float, default=1e9, help="seconds; no row begins later"
    )
    parser.add_argument("--stand-in", action="store_true", help="a dry run without a GPU")
    arguments = parser.parse_args()
    if arguments.update:
        return update(arguments.update)
    workloads = WORKLOADS
    if arguments.stand_in:
        DEVICE, gpu = "cpu", "stand-in"
        workloads = tuple(
            dataclasses.replace(w, shape=(1, 8, *w.shape[2:]), out_channels=8) for w in WORKLOADS
        )
    elif not torch.cuda.is_available():
        print("no CUDA device: nothing is measured", file=sys.stderr)
        return 1
    else:
        gpu = torch.cuda.get_device_name()
    made_with = environment()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    started = time.monotonic()
    there = {
        (e["row"]["workload"], e["row"]["dtype"], e["row"]["function"])
        for e in measured_rows(arguments.rows).get(gpu, [])
    }
    # The dtype of most use for all workloads first.
    for kind in arguments.kinds:
        for workload in workloads:
            if arguments.only not in workload.name:
                continue
            for name, function in functions(workload, KINDS[kind]):
                if (workload.name, kind, name) in there:
                    continue
                if time.monotonic() - started > arguments.stop_after:
                    print(f"stopped after {arguments.stop_after:g} s; the same command goes on")
                    return 0
                new = row(workload, kind, name, function)
                if arguments.rows:
                    with arguments.rows.open("a") as file:
                        file.write(json.dumps({"gpu": gpu, **made_with, "row": new}) + "\n")
                print(
                    f"{workload.name:28} {kind:9} {name:9} cuDNN {new['cudnn_us']:9.1f} us, "
                    f"Triton {new['triton_us']:9.1f} us, {new['cudnn_us'] / new['triton_us']:.2f}x",
                    flush=True,
                )
            if arguments.tiles:
                tile_times(workload, kind)
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
