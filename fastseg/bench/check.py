"""Decides whether a result may be timed: the project's tolerance, for any kind of result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._private_torch import tree_leaves
from ..testing import assert_as_accurate

# Share of an integer result that may differ from float64 whatever the peer's: it may be lucky.
LUCK = 1e-5


class WrongResult(AssertionError):
    """A result is less accurate than the project allows."""


def check_result(ours: Any, peer: Any, truth: Any, what: str, ratio: float = 2.0) -> None:
    """Raises if a tensor in `ours` is more than `ratio` times as far from truth as the peer's.

    Args:
        ours: tensors in any nesting.
        peer: the same from the PyTorch composition in the same dtype.
        truth: the same from the composition in float64.
        what: named in the message.
        ratio: allowed ratio of the two errors.

    Raises:
        WrongResult: shape, dtype or values do not fit.

    Floating-point tensors are compared by assert_as_accurate. Labels count as far from truth as
    elements differ; counts (matrices) as far as counted elements stand in the wrong place.
    """
    leaves = [tree_leaves(tree) for tree in (ours, peer, truth)]
    if len({len(side) for side in leaves}) != 1:
        raise WrongResult(f"{what}: {len(leaves[0])} results, expected {len(leaves[1])}")
    for index, (a, p, t) in enumerate(zip(*leaves, strict=True)):
        name = f"{what}, result {index}" if len(leaves[0]) > 1 else what
        try:
            if t.is_floating_point():
                assert_as_accurate(a, p, t, ratio=ratio, what=name)
            else:
                _check_integers(a, p, t, ratio, name)
        except AssertionError as error:
            raise WrongResult(str(error)) from error


def check_by(
    compare: Callable[[dict[str, Any], Any], None], inputs: dict[str, Any], result: Any, what: str
) -> None:
    """Raises WrongResult if the op's own comparison of discrete results fails."""
    try:
        compare(inputs, result)
    except AssertionError as error:
        raise WrongResult(f"{what}: {error}") from error


def _check_integers(
    ours: torch.Tensor, peer: torch.Tensor, truth: torch.Tensor, ratio: float, what: str
) -> None:
    if ours.shape != truth.shape or ours.is_floating_point():
        raise AssertionError(
            f"{what}: {ours.dtype} {tuple(ours.shape)}, expected integers {tuple(truth.shape)}"
        )
    total = truth.numel() if truth.dim() != 2 else int(truth.sum())
    our_error, peer_error = _misplaced(ours, truth), _misplaced(peer, truth)
    if our_error > max(ratio * peer_error, LUCK * total, 1):
        raise AssertionError(
            f"{what}: {our_error} of {total} differ from float64, PyTorch's own are {peer_error}"
        )


def _misplaced(value: torch.Tensor, truth: torch.Tensor) -> int:
    if truth.dim() != 2:
        return int((value.long() != truth.long()).sum())
    return (int((value.long() - truth.long()).abs().sum()) + 1) // 2
