"""Normalised Gaussian filters, which compute a dense CRF's messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

Normalization = Literal["none", "before", "after", "symmetric"]
NORMALIZATIONS = ("none", "before", "after", "symmetric")

# pydensecrf's guard against a pixel without any weight.
_EPSILON = 1e-20

Apply = Callable[[torch.Tensor], torch.Tensor]


class NormalizedFilter:
    """A filter K with the normalisation of its rows or columns.

    With n = K 1: "none" K v; "after" (K v) / n; "before" K (v / n); "symmetric"
    (K (v / sqrt(n))) / sqrt(n).

    Args:
        apply: K itself, of values [N, L, P].
        before, after: factors [N, 1, P] of values and results, or None.
    """

    # No dataclass: Dynamo of PyTorch 2.11 does not find the fields of one that is called.
    def __init__(
        self, apply: Apply, before: torch.Tensor | None, after: torch.Tensor | None
    ) -> None:
        self.apply = apply
        self.before = before
        self.after = after

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """The filtered values [N, L, P]."""
        if self.before is not None:
            values = values * self.before
        values = self.apply(values)
        return values if self.after is None else values * self.after


def normalized(
    apply: Apply, ones: torch.Tensor, normalization: Normalization = "symmetric"
) -> NormalizedFilter:
    """The filter `apply` with one of the four normalisations; `ones` [N, 1, P] are filtered for it.

    Raises:
        ValueError: an unknown normalisation.
    """
    if normalization not in NORMALIZATIONS:
        allowed = ", ".join(map(repr, NORMALIZATIONS))
        raise ValueError(f"normalization is {normalization!r}, allowed are {allowed}")
    if normalization == "none":
        return NormalizedFilter(apply, None, None)
    norm = apply(ones) + _EPSILON
    if normalization == "symmetric":
        root = norm.rsqrt()
        return NormalizedFilter(apply, root, root)
    one_side = norm.reciprocal()
    if normalization == "before":
        return NormalizedFilter(apply, one_side, None)
    return NormalizedFilter(apply, None, one_side)
