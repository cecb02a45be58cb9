"""The tables of the Triton kernels, counted out; and the choice between Triton and cuDNN."""

from __future__ import annotations

import collections
import itertools
import json

import numpy
import pytest
import torch

from fastseg.ops.dilated_conv2d import measured, triton_conv
from fastseg.ops.dilated_conv2d.triton_config import (
    choose_conv_config,
    choose_gradient_config,
    conv_configs,
    gradient_configs,
)
from fastseg.ops.dilated_conv2d.triton_tiles import (
    Maps,
    Taps,
    conv_tiles,
    tap_visits,
    weight_gradient_work,
)

GEOMETRIES = [
    (Taps.of_forward((3, 3), (4, 4), (4, 4)), Maps(3, (9, 11), (9, 11))),
    (Taps.of_forward((2, 3), (4, 1), (3, 2)), Maps(2, (7, 12), (12, 10))),
    (Taps.of_gradient((2, 3), (4, 1), (3, 2)), Maps(2, (12, 10), (7, 12))),
    (Taps.of_gradient((3, 3), (0, 0), (1, 2)), Maps(1, (5, 6), (7, 10))),
    (Taps.of_forward((3, 3), (9, 9), (1, 1)), Maps(1, (3, 4), (19, 20))),
    (Taps.of_forward((1, 1), (0, 0), (1, 1)), Maps(5, (6, 5), (6, 5))),
]


def reads(taps: Taps, tap: tuple[int, int], pixel: tuple[int, int]) -> tuple[int, int]:
    """Input position that an output pixel reads with a tap, the first being (0, 0)."""
    row, column = (pixel[a] + taps.origin[a] + tap[a] * taps.step[a] for a in (0, 1))
    return row, column


def inside(position: tuple[int, int], size: tuple[int, int]) -> bool:
    return 0 <= position[0] < size[0] and 0 <= position[1] < size[1]


def box_pixels(corner, box, size):
    return [
        (y, x)
        for y in range(corner[0], min(corner[0] + box[0], size[0]))
        for x in range(corner[1], min(corner[1] + box[1], size[1]))
    ]


@pytest.mark.parametrize("taps, maps", GEOMETRIES)
@pytest.mark.parametrize("box", ((1, 8, 16), (2, 4, 4)))
def test_tiles_cover_the_result_once_and_visit_the_taps_that_see_the_map(taps, maps, box):
    table = conv_tiles((taps, taps), maps, 40, box, 32, programs=7)
    assert len(table) % 7 == 0
    written = collections.Counter()
    for row in table.tolist():
        branch, image, y, x, channel, first_row, first_column = row[:7]
        step, (rows, columns), tap, tap_step, row_step, count = row[7:9], row[9:11], *row[11:15]
        if image >= maps.images:
            assert rows == columns == 0
            continue
        written[branch, image, y, x, channel] += 1
        assert (tuple(step), count) == (taps.step, taps.count)
        visited = {}
        for i, j in itertools.product(range(rows), range(columns)):
            visited[first_row + i * step[0] - y, first_column + j * step[1] - x] = tap
            tap += tap_step if j < columns - 1 else row_step
        pixels = box_pixels((y, x), box[1:], maps.out_size)
        live = {}
        for i, j in itertools.product(*map(range, taps.kernel)):
            if any(inside(reads(taps, (i, j), p), maps.in_size) for p in pixels):
                number = i * taps.kernel[1] + j
                shift = reads(taps, (i, j), (0, 0))
                live[shift] = taps.count - 1 - number if taps.backwards else number
        if 0 in (rows, columns):
            assert not live
        else:
            assert live.items() <= visited.items()
            # A rectangle of taps: what it visits besides is in the padding of this box's corners.
            assert len(visited) == rows * columns
            assert {s[0] for s in visited} <= {s[0] for s in live} or not live
    assert set(written.values()) == {1}
    assert len(written) == 2 * 2 * numpy.prod(
        [-(-s // b) for s, b in zip((maps.images, *maps.out_size), box, strict=True)]
    )


@pytest.mark.parametrize("taps, maps", GEOMETRIES[:2] + GEOMETRIES[4:])
@pytest.mark.parametrize("slots", (1, 25))
def test_runs_of_the_weight_gradient_visit_every_product_once(taps, maps, slots):
    box = (2, 4, 4)
    work, first = weight_gradient_work(taps, maps, box, slots)
    assert first[0] == 0 and first[-1] == len(work) and len(first) == taps.count + 1
    for number, tap in enumerate(itertools.product(*map(range, taps.kernel))):
        seen = collections.Counter()
        for row in work[first[number] : first[number + 1]].tolist():
            image, y, x, row_begin, row_end, column_begin, column_end, *shift, boxes = row[:10]
            assert tuple(shift) == reads(taps, tap, (0, 0))
            for _ in range(boxes):
                for n in range(image, min(image + box[0], maps.images)):
                    seen.update((n, *p) for p in box_pixels((y, x), box[1:], maps.out_size))
                x += box[2]
                if x >= column_end:
                    x, y = column_begin, y + box[1]
                if y >= row_end:
                    y, image = row_begin, image + box[0]
        assert set(seen.values()) <= {1}
        pixels = itertools.product(*map(range, maps.out_size))
        needed = [p for p in pixels if inside(reads(taps, tap, p), maps.in_size)]
        assert {(n, *p) for n in range(maps.images) for p in needed} <= set(seen)


def aspp(*rates: int) -> tuple[Taps, ...]:
    ones = Taps.of_forward((1, 1), (0, 0), (1, 1))
    return (ones, *(Taps.of_forward((3, 3), (r, r), (r, r)) for r in rates))


def test_at_rate_18_on_33_pixels_four_tenths_of_the_taps_are_left():
    taps = aspp(18)[1:]
    exact = tap_visits(taps, Maps(8, (33, 33), (33, 33)), (1, 1, 1))
    assert exact == pytest.approx(0.405 * 9 * 8 * 33 * 33, rel=0.002)


@pytest.mark.parametrize("images", (1, 8))
def test_of_an_aspp_the_tile_that_fits_and_programs_with_the_same_load(images):
    branches, maps, programs = aspp(6, 12, 18), Maps(images, (33, 33), (33, 33)), 264
    configs = conv_configs(torch.bfloat16, "ieee", True)
    config = choose_conv_config(configs, branches, maps, 256, programs)
    # One image: the smaller tile, or most programs have nothing. Eight: boxes of 4 x 4 pixels.
    assert config.box == {1: (1, 8, 8), 8: (8, 4, 4)}[images]
    table = conv_tiles(branches, maps, 256, config.box, config.out_channels, programs)
    costs = (table[:, 9] * table[:, 10]).reshape(-1, programs)
    if images == 8:
        # No program can have less than the heaviest tile, of nine taps, or more of them by halves.
        assert costs.sum(0).max() <= 1.25 * costs.sum() / programs
        # All taps of all pixels would be 28 visits to each, in tiles without a rest.
        visits = costs.sum() * 128 * config.out_channels / 256
        assert visits < 0.75 * 28 * images * 33 * 33


def test_of_one_image_the_weight_gradient_takes_boxes_of_one():
    taps = Taps.of_forward((3, 3), (4, 4), (4, 4))
    configs = gradient_configs(torch.bfloat16, "ieee", True)
    assert choose_gradient_config(configs, taps, Maps(1, (90, 90), (90, 90))).box == (1, 8, 8)
    assert choose_gradient_config(configs, taps, Maps(8, (33, 33), (33, 33))).box == (4, 4, 4)


# The measured table.


def test_the_stored_table_has_what_a_choice_needs():
    for gpu, entry in json.loads(measured.FILE.read_text())["gpus"].items():
        assert {"date", "torch", "triton", "rows"} <= set(entry), gpu
        for row in entry["rows"]:
            assert row["cudnn_us"] > 0 and row["triton_us"] > 0


@pytest.fixture
def one_row(monkeypatch):
    """A row about W2 at rate 18; returns a function that asks for a choice."""
    taps = aspp(18)[1:]
    shape, size = (8, 2048, 33, 33), (33, 33)
    row = measured.description("forward", shape, "bfloat16", 256, size, taps)
    row |= {"cudnn_us": 100.0, "triton_us": 60.0}
    measured._says.cache_clear()
    monkeypatch.setattr(measured, "_name", lambda device: "a GPU")
    monkeypatch.setattr(measured, "rows_of", lambda gpu: [row] if gpu == "a GPU" else [])

    def ask(function="forward", shape=(8, 2048, 33, 33), out=256, rate=18, dtype=torch.bfloat16):
        x = torch.empty(shape, dtype=dtype, device="meta")
        return measured.prefers_triton(function, x, out, shape[2:], aspp(rate)[1:])

    yield row, ask
    measured._says.cache_clear()


def test_triton_where_it_was_measured_to_be_faster_and_nowhere_else(one_row):
    row, ask = one_row
    assert ask()
    assert ask(shape=(9, 2048, 33, 33), rate=17)
    assert not ask(shape=(1, 2048, 33, 33))
    assert not ask(shape=(8, 512, 33, 33))
    assert not ask(out=512)
    assert not ask(rate=2)
    assert not ask("backward")
    assert not ask(dtype=torch.float16)
    row["triton_us"] = 101.0
    measured._says.cache_clear()
    assert not ask()


def test_without_a_measurement_of_this_gpu_it_is_cudnn(monkeypatch):
    monkeypatch.setattr(measured, "_name", lambda device: "a GPU that nobody measured")
    x = torch.empty(8, 2048, 33, 33, device="meta", dtype=torch.bfloat16)
    assert not measured.prefers_triton("forward", x, 256, (33, 33), aspp(18)[1:])


def test_on_a_cpu_the_interpreter_is_never_chosen(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 4, 3, 3)
    geometry = {"padding": [1, 1], "dilation": [1, 1]}
    for function in ("forward", "backward"):
        assert "tests" in triton_conv.passed_over(function, x=x, weight=weight, **geometry)
    assert "tests" in triton_conv.passed_over("branches", x=x, weights=[weight], dilations=[1])
