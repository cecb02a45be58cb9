"""gaussian_filter on tensor cores, as Triton kernels: flash attention's loop with a Gaussian.

A program owns a tile of points ("queries") and visits tiles of points ("keys"); the weights of a
pair of tiles are worked out in registers and multiplied with the keys' values at once. Weights are
at most 1, so nothing is rescaled on the way.

The distances are sums of squared differences. |q|^2 - 2 q k + |k|^2 would run on tensor cores, but
cancels: with features of 20 standard deviations a weight keeps four digits, however the factors are
split, for the terms are added in float32.

Points come in the order of a space-filling curve (order_kernel), so that a tile is small in feature
space and most pairs of tiles are too far apart to matter: near_kernel lists the others.
"""

import triton
import triton.language as tl

# -1/2 for the Gaussian, log2(e) because exp2 is the hardware's.
SCALE = tl.constexpr(-0.72134752044448170368)


@triton.jit(do_not_specialize=["points"])
def order_kernel(
    features,
    lows,
    codes,
    points,
    DIMS: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """codes[n, p]: place of a point on a Z-order curve through cells one standard deviation wide.

    features [N, DIMS, P], lows [N, DIMS] their minima, codes int64 [N, P].
    """
    image = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    code = tl.zeros((BLOCK,), tl.int64)
    for d in tl.static_range(DIMS):
        row = image * DIMS + d
        x = tl.load(features + row * points + p, mask=p < points, other=0.0) - tl.load(lows + row)
        # What is not a number ends in the first cell: anywhere is right.
        cell = tl.minimum(tl.maximum(x, 0.0), 2.0**BITS - 1.0).to(tl.int64)
        for bit in tl.static_range(BITS):
            code |= ((cell >> bit) & 1) << (bit * DIMS + d)
    tl.store(codes + image * points + p, code, mask=p < points)


@triton.jit(do_not_specialize=["first", "tiles", "limit"])
def near_kernel(
    lows,
    highs,
    near,
    counts,
    first,
    tiles,
    limit,
    DIMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """near[i, :counts[i]]: the tiles of its image, in order, that tile `first` + i has to see.

    lows, highs [N * tiles, DIMS]: the ranges of the tiles' features. Tiles are left out where the
    squared distance of their ranges exceeds `limit`. near int32 [rows, tiles], counts int32 [rows].
    """
    row = tl.program_id(0)
    query = (first + row).to(tl.int64)
    base = query // tiles * tiles
    out = near + row.to(tl.int64) * tiles
    count = 0
    for begin in range(0, tiles, BLOCK):
        t = begin + tl.arange(0, BLOCK)
        inside = t < tiles
        square = tl.zeros((BLOCK,), tl.float32)
        for d in tl.static_range(DIMS):
            place = (base + t) * DIMS + d
            low = tl.load(lows + place, mask=inside, other=0.0)
            high = tl.load(highs + place, mask=inside, other=0.0)
            before = tl.load(lows + query * DIMS + d) - high
            behind = low - tl.load(highs + query * DIMS + d)
            gap = tl.maximum(tl.maximum(before, behind), 0.0)
            square += gap * gap
        # A range that is not a number counts as near: its points must be seen.
        is_near = tl.where(square > limit, False, inside)
        chosen = is_near.to(tl.int32)
        tl.store(out + count + tl.cumsum(chosen, 0) - chosen, t, mask=is_near)
        count += tl.sum(chosen, 0)
    tl.store(counts + row, count)


@triton.jit
def _weights(features, queries, keys, points, DIMS: tl.constexpr):
    """exp(-|q - k|^2 / 2) of every query with every key; features [DIMS, points]."""
    square = tl.zeros((queries.shape[0], keys.shape[0]), tl.float32)
    for d in tl.static_range(DIMS):
        row = features + d * points
        difference = tl.load(row + queries)[:, None] - tl.load(row + keys)[None, :]
        square += difference * difference
    return tl.exp2(square * SCALE)


@triton.jit
def _nearest(x):
    """x rounded to TF32; infinities stay."""
    bits = x.to(tl.int32, bitcast=True) + 0x1000
    return (bits & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    """a @ b: of TF32 factors, or ("tf32x3") of factors in two such parts.

    Triton's own tf32x3 cuts the factors instead of rounding them, and so do the tensor cores with
    what is left: every product comes out too small, by up to eight units of float32.
    """
    total = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    if PRECISION == "tf32x3":
        a_high, b_high = _nearest(a), _nearest(b)
        total = tl.dot(a - a_high, b_high, total, input_precision="tf32")
        total = tl.dot(a_high, b - b_high, total, input_precision="tf32")
        return tl.dot(a_high, b_high, total, input_precision="tf32")
    else:
        return tl.dot(a, b, total, input_precision="tf32")


@triton.jit(do_not_specialize=["first", "tiles", "points", "labels", "padded_labels"])
def filter_kernel(
    values,
    features,
    order,
    near,
    counts,
    out,
    first,
    tiles,
    padded,
    points,
    labels,
    padded_labels,
    DIMS: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    BL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out[n, l, order[n, i]] = sum over j of exp(-|f_i - f_j|^2 / 2) values[n, l, j].

    values [N, padded_labels, padded] and features [N, DIMS, padded] float32: the points in order;
    past the last one values are 0 and features repeat it. out [N, labels, points].
    """
    row = tl.program_id(0)
    image = ((first + row) // tiles).to(tl.int64)
    q = ((first + row) % tiles) * BT + tl.arange(0, BT)
    label = tl.program_id(1) * BL + tl.arange(0, BL)
    f = features + image * DIMS * padded
    v = values + (image * padded_labels + label) * padded
    entry = near + row.to(tl.int64) * tiles
    total = tl.zeros((BT, BL), tl.float32)
    steps = BT // BK
    for i in range(tl.load(counts + row) * steps):
        k = tl.load(entry + i // steps) * BT + i % steps * BK + tl.arange(0, BK)
        weights = _weights(f, q, k, padded, DIMS)
        columns = tl.load(v[:, None] + k[None, :])
        # Tensor cores round every sum towards zero: short ones, added up outside of them.
        total += _product(weights, columns.T, PRECISION)
    place = tl.load(order + image * padded + q)
    tl.store(
        out + (image * labels + label)[None, :] * points + place[:, None],
        total.to(out.dtype.element_ty),
        mask=(q < points)[:, None] & (label < labels)[None, :],
    )


@triton.jit(do_not_specialize=["first", "tiles", "points", "padded_labels"])
def feature_gradient_kernel(
    grads,
    values,
    features,
    order,
    near,
    counts,
    grad_features,
    first,
    tiles,
    padded,
    points,
    padded_labels,
    DIMS: tl.constexpr,
    BT: tl.constexpr,
    BK: tl.constexpr,
    BL: tl.constexpr,
    BD: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """grad_features[n, :, order[n, i]] = sum over j of
    exp(-|f_i - f_j|^2 / 2) (g_i . v_j + v_i . g_j) (f_j - f_i).

    grads and values [N, padded_labels, padded], features [N, DIMS, padded] float32: as in
    filter_kernel. grad_features [N, DIMS, points]. BD: DIMS or more, a power of two.
    """
    row = tl.program_id(0)
    image = ((first + row) // tiles).to(tl.int64)
    q = ((first + row) % tiles) * BT + tl.arange(0, BT)
    label, d = tl.arange(0, BL), tl.arange(0, BD)
    f = features + image * DIMS * padded
    g = grads + (image * padded_labels + label) * padded
    v = values + (image * padded_labels + label) * padded
    entry = near + row.to(tl.int64) * tiles
    total = tl.zeros((BT, BD), tl.float32)
    steps = BT // BK
    for i in range(tl.load(counts + row) * steps):
        k = tl.load(entry + i // steps) * BT + i % steps * BK + tl.arange(0, BK)
        pull = tl.zeros((BT, BK), tl.float32)
        g_block, v_block = g, v
        for _ in range(0, padded_labels, BL):
            g_q = tl.load(g_block[None, :] + q[:, None])
            v_q = tl.load(v_block[None, :] + q[:, None])
            g_k = tl.load(g_block[:, None] + k[None, :])
            v_k = tl.load(v_block[:, None] + k[None, :])
            pull += _product(g_q, v_k, PRECISION)
            pull += _product(v_q, g_k, PRECISION)
            g_block += BL * padded
            v_block += BL * padded
        pull *= _weights(f, q, k, padded, DIMS)
        for dim in tl.static_range(DIMS):
            line = f + dim * padded
            difference = tl.load(line + k)[None, :] - tl.load(line + q)[:, None]
            pulled = tl.sum(pull * difference, 1)
            total += tl.where(d == dim, 1.0, 0.0)[None, :] * pulled[:, None]
    place = tl.load(order + image * padded + q)
    tl.store(
        grad_features + (image * DIMS + d)[None, :] * points + place[:, None],
        total.to(grad_features.dtype.element_ty),
        mask=(q < points)[:, None] & (d < DIMS)[None, :],
    )
