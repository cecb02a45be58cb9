"""permutohedral_filter in plain PyTorch: the definition, differentiable by autograd."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ...dtypes import compute_dtype

# How far the coordinates of the lattice go: where float32 no longer tells the corners of a simplex
# apart, and where those of a vertex and its neighbours no longer fit into 32 bits.
MAX_COORDINATE = {torch.float32: 2**22, torch.float64: 2**30}


class Tables(NamedTuple):
    """The lattice of one image. Row 0 is a vertex of value zero, vertex v has row v + 1."""

    rows: torch.Tensor  # [D + 1, P] int64: the corners of each pixel's simplex
    weights: torch.Tensor  # [D + 1, P]: its barycentric coordinates, in the dtype of the features
    neighbours: torch.Tensor  # [D + 1 axes, vertices, 2] int64: rows


def axis_scales(count: int, dtype: torch.dtype) -> list[float]:
    """What each feature is multiplied with, rounded to dtype as in the original."""
    round_to = (lambda x: x) if dtype is torch.float64 else _to_float32
    spread = round_to(math.sqrt(2.0 / 3.0) * (count + 1))
    return [round_to(1.0 / math.sqrt((i + 1) * (i + 2)) * spread) for i in range(count)]


def _to_float32(x: float) -> float:
    return torch.tensor(x, dtype=torch.float32).item()


def build(features: torch.Tensor) -> Tables:
    """The lattice of features [D, P], float32 or float64; weights are differentiable in them.

    Raises:
        ValueError: features that are not finite or too large.
    """
    count, pixels = features.shape
    padding = -pixels % 4  # pydensecrf's: zero features, whose vertices exist
    weights, point, rank = _simplices(torch.nn.functional.pad(features, (0, padding)))
    corners = count + 1
    m = torch.arange(corners, device=features.device).view(-1, 1, 1)
    keys = point[:count] + m - torch.where(rank[:count] <= count - m, 0, corners)  # [m, D, P]
    keys = keys.permute(0, 2, 1).reshape(-1, count)
    vertices, rows = torch.unique(keys, dim=0, return_inverse=True)
    rows = rows.view(corners, -1)[:, :pixels] + 1
    return Tables(rows, weights[:, :pixels], _neighbours(vertices))


def _simplices(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Barycentric weights, remainder-0 points and ranks of the simplices, [D + 1, P] each.

    float32 features whose coordinates float32 cannot tell apart are computed in float64.
    """
    elevated = _elevate(features)
    far = ~(elevated.detach().abs() <= MAX_COORDINATE[features.dtype]).all(0)
    if features.dtype is torch.float64 or not far.any():
        _raise_if_any(far, features)
        return _within(elevated)
    weights, point, rank = _within(elevated.masked_fill(far, 0.0))
    again = _elevate(features[:, far].double())
    too_far = ~(again.detach().abs() <= MAX_COORDINATE[torch.float64]).all(0)
    _raise_if_any(far.masked_scatter(far, too_far), features)
    of_far = _within(again)
    # Not in place: the derivative of `weights` needs the ranks that it was computed with.
    return (
        weights.masked_scatter(far, of_far[0].to(features.dtype)),
        point.masked_scatter(far, of_far[1]),
        rank.masked_scatter(far, of_far[2]),
    )


def _raise_if_any(bad: torch.Tensor, features: torch.Tensor) -> None:
    if bad.any():
        raise bad_features(features, int(bad.int().argmax()))


def _within(elevated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """_simplices of elevated coordinates [D + 1, P] that the dtype holds well."""
    corners = len(elevated)
    inverse = (1.0 / torch.tensor(corners, dtype=elevated.dtype)).item()
    nearest = (elevated * inverse).detach().round().long()
    residual = elevated.detach() - (nearest * corners).to(elevated.dtype)
    point, rank = _into_simplex(nearest, residual)
    t = (elevated - point.to(elevated.dtype)) * inverse
    by_rank = torch.empty_like(t).scatter(0, rank, t)
    weights = torch.cat([by_rank[-1:] + (1.0 - by_rank[:1]), (by_rank[:-1] - by_rank[1:]).flip(0)])
    return weights, point, rank


def _change_of_weights(features: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """The change of the weights [D + 1, P] in fixed simplices where features change by `moved`."""
    _, _, rank = _simplices(features)
    elevated = _elevate(moved) / len(rank)
    by_rank = torch.zeros_like(elevated).scatter(0, rank, elevated)
    return torch.cat([by_rank[-1:] - by_rank[:1], (by_rank[:-1] - by_rank[1:]).flip(0)])


def _backward_weights(features: torch.Tensor, grad_weights: torch.Tensor) -> torch.Tensor:
    """The adjoint of features -> weights at fixed simplices: [D + 1, P] -> [D, P]."""
    count = len(features)
    _, _, rank = _simplices(features)
    by_rank = (grad_weights - grad_weights.roll(-1, 0)).flip(0)
    grad_elevated = by_rank.gather(0, rank) / (count + 1)
    grads, total = [], grad_elevated[0]
    for i, scale in enumerate(axis_scales(count, features.dtype)):
        grads.append((total - (i + 1) * grad_elevated[i + 1]) * scale)
        total = total + grad_elevated[i + 1]
    return torch.stack(grads)


def _elevate(features: torch.Tensor) -> torch.Tensor:
    """[D, P] -> [D + 1, P], coordinates that add up to 0."""
    scales = axis_scales(len(features), features.dtype)
    total = torch.zeros_like(features[0])
    elevated = []
    for j in range(len(features), 0, -1):
        scaled = features[j - 1] * scales[j - 1]
        elevated.append(total - float(j) * scaled)
        total = total + scaled
    return torch.stack([total, *reversed(elevated)])


def _into_simplex(
    nearest: torch.Tensor, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The remainder-0 point of each simplex, and the rank of each coordinate's residual."""
    corners = len(nearest)
    rank = torch.zeros_like(nearest)
    for i in range(corners):
        for j in range(i + 1, corners):
            smaller = residual[i] < residual[j]
            rank[i] += smaller
            rank[j] += ~smaller
    rank += nearest.sum(0)
    shift = (rank < 0).long() - (rank >= corners).long()
    return (nearest + shift) * corners, rank + shift * corners


def _neighbours(vertices: torch.Tensor) -> torch.Tensor:
    """Rows of the two neighbours along each axis, 0 where there is none."""
    number, count = vertices.shape
    steps = torch.full((count + 1, count), -1, device=vertices.device)
    steps[:count] += torch.eye(count, dtype=steps.dtype, device=vertices.device) * (count + 1)
    wanted = torch.stack([vertices + steps.unsqueeze(1), vertices - steps.unsqueeze(1)], 2)
    every = torch.cat([vertices, wanted.reshape(-1, count)])
    distinct, index = torch.unique(every, dim=0, return_inverse=True)
    row_of = torch.zeros(len(distinct), dtype=torch.int64, device=vertices.device)
    row_of[index[:number]] = torch.arange(1, number + 1, device=vertices.device)
    return row_of[index[number:]].view(count + 1, number, 2)


def bad_features(features: torch.Tensor, pixel: int, image: int = 0) -> ValueError:
    """The error for features [D, P] that have no place in the lattice at `pixel`."""
    found = [round(x, 6) for x in features[:, pixel].detach().double().tolist()]
    if not all(map(math.isfinite, found)):
        return ValueError(f"features of image {image} are {found} at pixel {pixel}: not finite")
    return ValueError(
        f"features of image {image} are {found} at pixel {pixel}, too large for the lattice "
        f"(numbers up to about {MAX_COORDINATE[torch.float64] // 16}): divide by larger widths"
    )


def filter_one(values: torch.Tensor, tables: Tables, transpose: bool) -> torch.Tensor:
    """Splat, blur and slice of values [L, P]."""
    return (_spread(values, tables, transpose)[:, tables.rows] * tables.weights).sum(1)


def _spread(values: torch.Tensor, tables: Tables, transpose: bool) -> torch.Tensor:
    """What the vertices hold after splat and blur [L, rows], scaled for the slice."""
    rows, weights, neighbours = tables
    labels, corners = len(values), len(rows)
    spread = (values.unsqueeze(1) * weights).flatten(1)
    table = values.new_zeros(labels, neighbours.shape[1] + 1).index_add(1, rows.flatten(), spread)
    for axis in reversed(range(corners)) if transpose else range(corners):
        lower, upper = neighbours[axis].unbind(1)
        blurred = table[:, 1:] + 0.5 * (table[:, lower] + table[:, upper])
        table = torch.cat([table[:, :1], blurred], 1)
    return table * (1.0 / (1.0 + 2.0 ** -(corners - 1)))


def composition(
    values: torch.Tensor, features: torch.Tensor, transpose: bool = False
) -> torch.Tensor:
    """permutohedral_filter of plain PyTorch operations, with their derivatives."""
    if len(values) == 0:
        return values * features.sum()  # empty, and still a function of both
    compute = compute_dtype(values)
    results = []
    for n in range(len(values)):
        image = features[n if len(features) > 1 else 0].to(compute)
        results.append(filter_one(values[n].to(compute), build(image), transpose))
    return torch.stack(results).to(values.dtype)


def forward(values: torch.Tensor, features: torch.Tensor, transpose: bool) -> torch.Tensor:
    """Filtered values [N, L, P]."""
    return composition(values, features, transpose)


def feature_tangent(
    values: torch.Tensor, features: torch.Tensor, moved: torch.Tensor, transpose: bool
) -> torch.Tensor:
    """The change of forward() where the features change by `moved`, in fixed simplices."""
    if len(values) == 0:
        return values.clone()
    compute = compute_dtype(values)
    results = []
    for n in range(len(values)):
        i = n if len(features) > 1 else 0
        value, image, move = (x.to(compute) for x in (values[n], features[i], moved[i]))
        tables = build(image)
        change = tables._replace(weights=_change_of_weights(image, move))
        # The product rule: the weights splat and slice.
        splat = _spread(value, change, transpose)[:, tables.rows] * tables.weights
        slice_ = _spread(value, tables, transpose)[:, tables.rows] * change.weights
        results.append((splat + slice_).sum(1))
    return torch.stack(results).to(values.dtype)


def backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, transpose: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients to values and features."""
    if len(values) == 0:
        return values.clone(), torch.zeros_like(features)
    compute = compute_dtype(values)
    of_values, of_features = [], []
    for n in range(len(values)):
        i = n if len(features) > 1 else 0
        image, value, grad = (x.to(compute) for x in (features[i], values[n], grad_out[n]))
        tables = build(image)
        blurred = _spread(value, tables, transpose)
        blurred_grad = _spread(grad, tables, not transpose)
        of_values.append((blurred_grad[:, tables.rows] * tables.weights).sum(1))
        grad_weights = (grad.unsqueeze(1) * blurred[:, tables.rows]).sum(0)
        grad_weights = grad_weights + (value.unsqueeze(1) * blurred_grad[:, tables.rows]).sum(0)
        of_features.append(_backward_weights(image, grad_weights))
    grad_features = torch.stack(of_features)
    if len(features) == 1:
        grad_features = grad_features.sum(0, keepdim=True)
    return torch.stack(of_values).to(values.dtype), grad_features.to(features.dtype)
