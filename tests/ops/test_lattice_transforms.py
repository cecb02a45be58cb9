"""Lattice.filter under torch.func: a linear function, as permutohedral_filter of its values."""

from __future__ import annotations

import pytest
import torch
from test_all_ops_transforms import _assert_close
from torch.func import grad, hessian, jacrev, jvp, vmap

from fastseg import permutohedral_filter
from fastseg.ops.permutohedral_filter import Lattice


def _number(function):
    return lambda values: (function(values) ** 3).sum()


@pytest.mark.parametrize("transpose", [False, True])
def test_transforms(transpose):
    features = torch.randn(1, 3, 40, dtype=torch.float64)
    values = torch.randn(2, 2, 40, dtype=torch.float64)
    directions = torch.randn(3, *values.shape, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    lattice = Lattice(features)

    def results(function):
        def along(numbers):
            return _number(function)(values + torch.tensordot(numbers, directions, 1))

        yield jvp(function, (values,), (directions[0],))
        yield grad(_number(function))(values)
        yield vmap(grad(_number(function)), in_dims=1)(directions.movedim(0, 1))
        yield hessian(along)(zero)
        yield jacrev(jacrev(along))(zero)

    ours = results(lambda x: lattice.filter(x, transpose))
    theirs = results(lambda x: permutohedral_filter(x, features, transpose))
    for one, other in zip(ours, theirs, strict=True):
        _assert_close(one, other)
