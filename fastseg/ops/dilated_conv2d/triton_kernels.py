"""Dense dilated convolution on tensor cores: the three matrix products, as Triton kernels.

A tile of the result is a box of BI images x BH rows x BW columns of pixels. One tap of the
convolution reads the same box somewhere else, perhaps partly in the padding: that is zero-filled,
by the hardware where the map is a tensor descriptor (DESCRIPTORS, sm_90 and newer), by a mask where
it is a pointer. Which taps see anything of the map but padding is the host's to know
(triton_tiles.py): they are a rectangle, and only they are visited.

Every kernel runs with 4 warps. Triton miscompiles loops over taps and channels in one with 8
(pytorch/pytorch#173068), and what is tested here without a GPU could not show it.
"""

import triton
import triton.language as tl

# Numbers in a row of the tables that triton_tiles.py makes.
FIELDS = tl.constexpr(16)


@triton.jit
def _pixels(BI: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """Image, row and column of every pixel of a box, counted from its corner."""
    p = tl.arange(0, BI * BH * BW)
    return p // (BH * BW), (p // BW) % BH, p % BW


@triton.jit
def _load_box(
    source,
    image,
    row,
    column,
    channel,
    images,
    height,
    width,
    channels,
    BI: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    BC: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """[BI * BH * BW, BC] of a dense map [images, height, width, channels]; 0 outside of it."""
    if DESCRIPTORS:
        return source.load([image, row, column, channel]).reshape(BI * BH * BW, BC)
    else:
        n, y, x = _pixels(BI, BH, BW)
        n, y, x = n + image, y + row, x + column
        inside = (n < images) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        offset = ((n.to(tl.int64) * height + y) * width + x) * channels
        c = channel + tl.arange(0, BC)
        return tl.load(
            source + offset[:, None] + c[None, :],
            mask=inside[:, None] & (c < channels)[None, :],
            other=0.0,
        )


@triton.jit
def _load_weight(
    weight,
    tap,
    out_channel,
    channel,
    taps,
    out_channels,
    channels,
    BN: tl.constexpr,
    BK: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    """[BN, BK]: one tap of a weight with memory order [out channel, tap, channel]."""
    if DESCRIPTORS:
        return weight.load([tap, out_channel, channel]).reshape(BN, BK)
    else:
        o, c = out_channel + tl.arange(0, BN), channel + tl.arange(0, BK)
        offset = (o.to(tl.int64) * taps + tap) * channels
        return tl.load(
            weight + offset[:, None] + c[None, :],
            mask=(o < out_channels)[:, None] & (c < channels)[None, :],
            other=0.0,
        )


@triton.jit(
    do_not_specialize=[
        "tile_count",
        "images",
        "height",
        "width",
        "out_height",
        "out_width",
        "limit",
    ]
)
def conv_kernel(
    x,
    weight0,
    weight1,
    weight2,
    weight3,
    scale,
    shift,
    out,
    tiles,
    tile_count,
    images,
    height,
    width,
    channels,
    out_height,
    out_width,
    out_channels,
    out_pixel_stride,
    limit,
    BI: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BRANCHES: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    CLAMP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """clamp(scale * convolution(x) + shift, 0, limit) of up to four convolutions of one map.

    Branch b writes channels [b * out_channels, (b + 1) * out_channels) of out. The gradient to x is
    the same kernel: the row of a tile says where its taps begin and in which order they lie.
    """
    for index in range(tl.program_id(0), tile_count, tl.num_programs(0)):
        tile = tiles + index * FIELDS
        branch = tl.load(tile)
        image, row, column = tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
        out_channel = tl.load(tile + 4)
        first_row, first_column = tl.load(tile + 5), tl.load(tile + 6)
        row_step, column_step = tl.load(tile + 7), tl.load(tile + 8)
        tap_rows, tap_columns = tl.load(tile + 9), tl.load(tile + 10)
        tap, tap_step, tap_row_step = tl.load(tile + 11), tl.load(tile + 12), tl.load(tile + 13)
        taps = tl.load(tile + 14)
        weight = weight0
        if BRANCHES > 1:
            if branch == 1:
                weight = weight1
            elif branch == 2:
                weight = weight2
            elif branch == 3:
                weight = weight3

        # Transposed, [out channel, pixel]: Triton takes a reshaped load straight from shared memory
        # into wgmma as the second factor only; as the first one it goes through registers.
        total = tl.zeros((BN, BI * BH * BW), tl.float32)
        channel = 0
        x_row, x_column, column_index = first_row, first_column, 0
        # One loop over taps and channels: the loads run ahead over the end of a tap.
        for _ in range(tap_rows * tap_columns * tl.cdiv(channels, BK)):
            a = _load_box(
                x,
                image,
                x_row,
                x_column,
                channel,
                images,
                height,
                width,
                channels,
                BI,
                BH,
                BW,
                BK,
                DESCRIPTORS,
            )
            b = _load_weight(
                weight, tap, out_channel, channel, taps, out_channels, channels, BN, BK, DESCRIPTORS
            )
            total = tl.dot(b, a.T, total, input_precision=PRECISION)
            channel += BK
            tap_done = channel >= channels
            channel = tl.where(tap_done, 0, channel)
            column_index += tap_done.to(tl.int32)
            row_done = column_index == tap_columns
            tap += tl.where(row_done, tap_row_step, tl.where(tap_done, tap_step, 0))
            x_row += tl.where(row_done, row_step, 0)
            x_column = tl.where(
                row_done, first_column, x_column + tl.where(tap_done, column_step, 0)
            )
            column_index = tl.where(row_done, 0, column_index)

        o = out_channel + tl.arange(0, BN)
        place = branch * out_channels + o
        if SCALE:
            factor = tl.load(scale + place, mask=o < out_channels, other=0.0)
            total *= factor.to(tl.float32)[:, None]
        if SHIFT:
            term = tl.load(shift + place, mask=o < out_channels, other=0.0)
            total += term.to(tl.float32)[:, None]
        if CLAMP:
            total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
            total = tl.minimum(total, limit, propagate_nan=tl.PropagateNan.ALL)
        n, y, z = _pixels(BI, BH, BW)
        n, y, z = n + image, y + row, z + column
        inside = (n < images) & (y < out_height) & (z < out_width)
        offset = ((n.to(tl.int64) * out_height + y) * out_width + z) * out_pixel_stride
        tl.store(
            out + offset[:, None] + place[None, :],
            total.to(out.dtype.element_ty).T,
            mask=inside[:, None] & (o < out_channels)[None, :],
        )


@triton.jit(do_not_specialize=["images", "height", "width", "out_height", "out_width"])
def weight_gradient_kernel(
    grad,
    x,
    partial,
    work,
    images,
    height,
    width,
    channels,
    out_height,
    out_width,
    out_channels,
    padded,
    BI: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """partial[s] = sum over the boxes of work row s of grad^T x, float32 [out_channels, padded].

    A row is a run of the boxes that one tap reads something in; weight_gradient_sum_kernel adds the
    rows of a tap in their order. padded: the channels, and zeros up to a multiple of 16: stores of
    unknown alignment would be one by one, and their addresses spill.
    """
    column_tiles = tl.cdiv(channels, BN)
    out_channel = (tl.program_id(0) // column_tiles) * BM
    channel = (tl.program_id(0) % column_tiles) * BN
    slot = tl.program_id(1)
    item = work + slot * FIELDS
    image, row, column = tl.load(item), tl.load(item + 1), tl.load(item + 2)
    row_begin, row_end = tl.load(item + 3), tl.load(item + 4)
    column_begin, column_end = tl.load(item + 5), tl.load(item + 6)
    row_shift, column_shift, boxes = tl.load(item + 7), tl.load(item + 8), tl.load(item + 9)

    total = tl.zeros((BM, BN), tl.float32)
    for _ in range(boxes):
        g = _load_box(
            grad,
            image,
            row,
            column,
            out_channel,
            images,
            out_height,
            out_width,
            out_channels,
            BI,
            BH,
            BW,
            BM,
            DESCRIPTORS,
        )
        v = _load_box(
            x,
            image,
            row + row_shift,
            column + column_shift,
            channel,
            images,
            height,
            width,
            channels,
            BI,
            BH,
            BW,
            BN,
            DESCRIPTORS,
        )
        total = tl.dot(g.T, v, total, input_precision=PRECISION)
        column += BW
        row_done = column >= column_end
        column = tl.where(row_done, column_begin, column)
        row += tl.where(row_done, BH, 0)
        image_done = row >= row_end
        row = tl.where(image_done, row_begin, row)
        image += tl.where(image_done, BI, 0)

    o, c = out_channel + tl.arange(0, BM), channel + tl.arange(0, BN)
    offset = (slot.to(tl.int64) * out_channels + o) * padded
    tl.store(
        partial + offset[:, None] + c[None, :],
        total,
        mask=(o < out_channels)[:, None] & (c < padded)[None, :],
    )


@triton.jit
def weight_gradient_sum_kernel(
    partial, first_slots, grad_weight, out_channels, channels, padded, BLOCK: tl.constexpr
):
    """grad_weight[o, tap, c]: the sum of the tap's slots, one after the other."""
    tap, taps = tl.program_id(1), tl.num_programs(1)
    size = out_channels * padded
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    begin, end = tl.load(first_slots + tap), tl.load(first_slots + tap + 1)
    source = partial + begin.to(tl.int64) * size + i
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(begin, end):
        total += tl.load(source, mask=i < size, other=0.0)
        source += size
    o, c = i // padded, i % padded
    place = (o.to(tl.int64) * taps + tap) * channels + c
    inside = (i < size) & (c < channels)
    tl.store(grad_weight + place, total.to(grad_weight.dtype.element_ty), mask=inside)
