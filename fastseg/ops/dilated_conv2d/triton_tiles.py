"""Which tile of a dense convolution reads what: the tables that the Triton kernels work through.

Along each axis, output position y and tap i read input position y + origin + i * step. The taps
that show a box of outputs anything but padding are therefore a rectangle. At rate 18 on 33 x 33
pixels it is 40% of the taps on average.
"""

from __future__ import annotations

import dataclasses
import heapq
import math

import numpy

Pair = tuple[int, int]

# The numbers of a row; triton_kernels.py reads them in this order.
FIELDS = 16


@dataclasses.dataclass(frozen=True)
class Taps:
    """The taps of one convolution with stride 1, per axis (vertical, horizontal).

    Attributes:
        kernel: their number.
        origin: what the first one reads, less the output position.
        step: from one to the next.
        backwards: whether the first one has the weight's last tap.
    """

    kernel: Pair
    origin: Pair
    step: Pair
    backwards: bool = False

    @classmethod
    def of_forward(cls, kernel: Pair, padding: Pair, dilation: Pair) -> Taps:
        """out[y] = sum over i of weight[i] * x[y - padding + i * dilation]."""
        return cls(kernel, (-padding[0], -padding[1]), dilation)

    @classmethod
    def of_gradient(cls, kernel: Pair, padding: Pair, dilation: Pair) -> Taps:
        """grad_x[y] = sum over i of weight[i] * grad_out[y + padding - i * dilation]."""
        rows, columns = (p - (k - 1) * d for k, p, d in zip(kernel, padding, dilation, strict=True))
        return cls(kernel, (rows, columns), dilation, backwards=True)

    @property
    def count(self) -> int:
        return self.kernel[0] * self.kernel[1]


@dataclasses.dataclass(frozen=True)
class Maps:
    """Sizes of what goes in and comes out."""

    images: int
    in_size: Pair
    out_size: Pair


def live_taps(
    taps: Taps, axis: int, extent: int, maps: Maps
) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """For each box of `extent` outputs along an axis: its start, its first live tap, their number.

    A tap is live for a box if any of the box's outputs reads the map with it.
    """
    size, out_size = maps.in_size[axis], maps.out_size[axis]
    starts = numpy.arange(0, out_size, extent)
    low = starts + taps.origin[axis]
    high = numpy.minimum(starts + extent, out_size) - 1 + taps.origin[axis]
    step, kernel = taps.step[axis], taps.kernel[axis]
    first = numpy.clip(-(high // step), 0, kernel)
    last = numpy.clip((size - 1 - low) // step, -1, kernel - 1)
    return starts, first, numpy.maximum(last - first + 1, 0)


def tap_visits(branches: tuple[Taps, ...], maps: Maps, box: tuple[int, int, int]) -> float:
    """Visits of a tap to a pixel, those of pixels outside the map included: what the product costs,
    in units of C_in * C_out multiplications."""
    blocks = math.ceil(maps.images / box[0])
    total = 0.0
    for taps in branches:
        rows, columns = (live_taps(taps, a, box[1 + a], maps)[2].sum() for a in (0, 1))
        total += float(rows) * float(columns) * blocks
    return total * math.prod(box)


def conv_tiles(
    branches: tuple[Taps, ...],
    maps: Maps,
    out_channels: int,
    box: tuple[int, int, int],
    channel_block: int,
    programs: int,
) -> numpy.ndarray:
    """One row for each tile, int32 [rounds * programs, FIELDS]; program p works through the rows p,
    p + programs, ...

    Heavy tiles come first, each to the program with the least to do; programs with less than the
    others have rows that write nothing.
    """
    images = numpy.arange(0, maps.images, box[0])
    channels = numpy.arange(0, out_channels, channel_block)
    rows = []
    for branch, taps in enumerate(branches):
        (y, i, n_i), (x, j, n_j) = (live_taps(taps, a, box[1 + a], maps) for a in (0, 1))
        n, o, a, b = (
            g.ravel()
            for g in numpy.meshgrid(
                images, channels, numpy.arange(len(y)), numpy.arange(len(x)), indexing="ij"
            )
        )
        columns = taps.kernel[1]
        tap = i[a] * columns + j[b]
        step, row_step = numpy.ones_like(tap), columns - n_j[b] + 1
        if taps.backwards:
            tap, step, row_step = taps.count - 1 - tap, -step, -row_step
        row = numpy.zeros((len(n), FIELDS), dtype=numpy.int64)
        row[:, 0] = branch
        row[:, 1], row[:, 2], row[:, 3], row[:, 4] = n, y[a], x[b], o
        row[:, 5] = y[a] + taps.origin[0] + i[a] * taps.step[0]
        row[:, 6] = x[b] + taps.origin[1] + j[b] * taps.step[1]
        row[:, 7:9] = taps.step
        row[:, 9], row[:, 10] = n_i[a], n_j[b]
        row[:, 11], row[:, 12], row[:, 13], row[:, 14] = tap, step, row_step, taps.count
        rows.append(row)
    table = numpy.concatenate(rows)
    costs = table[:, 9] * table[:, 10]
    order = numpy.argsort(-costs, kind="stable")
    if len(branches) > 1 or len(table) < 8 * programs:
        order = _balanced(order, costs, programs)
    table = numpy.concatenate([table, _nothing(maps)])[order]
    return table.astype(numpy.int32)


def _nothing(maps: Maps) -> numpy.ndarray:
    """A tile behind the last image: without taps, and without a pixel to write."""
    row = numpy.zeros((1, FIELDS), dtype=numpy.int64)
    row[0, 1] = maps.images
    return row


def _balanced(order: numpy.ndarray, costs: numpy.ndarray, programs: int) -> numpy.ndarray:
    """The tiles in `order` dealt out to the least busy program; -1 where one has none left."""
    lists: list[list[int]] = [[] for _ in range(programs)]
    heap = [(0, p) for p in range(programs)]
    for tile in order.tolist():
        load, p = heapq.heappop(heap)
        lists[p].append(tile)
        # One more than the taps: writing a tile is work as well.
        heapq.heappush(heap, (load + int(costs[tile]) + 1, p))
    rounds = max(map(len, lists))
    dealt = numpy.full((rounds, programs), -1)
    for p, tiles in enumerate(lists):
        dealt[: len(tiles), p] = tiles
    return dealt.ravel()


def weight_gradient_work(
    taps: Taps, maps: Maps, box: tuple[int, int, int], slots: int
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Runs of boxes of output pixels, each of one tap, and the first run of every tap.

    Args:
        taps: of the forward.
        maps: sizes of the forward's input and output.
        box: images, rows, columns.
        slots: about how many runs there shall be; at least one for each tap that is live at all.

    Returns:
        int32 [runs, FIELDS], and int32 [taps + 1]: tap t has the runs first[t] to first[t + 1] - 1.
    """
    blocks = math.ceil(maps.images / box[0])
    spans = []
    for i in range(taps.kernel[0]):
        for j in range(taps.kernel[1]):
            shift = [taps.origin[a] + t * taps.step[a] for a, t in ((0, i), (1, j))]
            spans.append((shift, *(_live_boxes(shift[a], a, box[1 + a], maps) for a in (0, 1))))
    counts = [blocks * len(rows) * len(columns) for _, rows, columns in spans]
    run = max(1, math.ceil(sum(counts) / max(slots, 1)))
    table, first = [], [0]
    for (shift, rows, columns), count in zip(spans, counts, strict=True):
        for begin in range(0, count, run):
            image, rest = divmod(begin, len(rows) * len(columns))
            row, column = divmod(rest, len(columns))
            corner = (image * box[0], rows[row], columns[column])
            area = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
            table.append((*corner, *area, *shift, min(run, count - begin), 0, 0, 0, 0, 0, 0))
        first.append(len(table))
    return (
        numpy.array(table, dtype=numpy.int32).reshape(-1, FIELDS),
        numpy.array(first, dtype=numpy.int32),
    )


def _live_boxes(shift: int, axis: int, extent: int, maps: Maps) -> list[int]:
    """Starts of the boxes along an axis some of whose outputs read the map at `shift` from them."""
    size, out_size = maps.in_size[axis], maps.out_size[axis]
    return [
        start
        for start in range(0, out_size, extent)
        if start + shift < size and min(start + extent, out_size) - 1 + shift >= 0
    ]
