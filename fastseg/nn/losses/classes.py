"""Which classes count in a loss, and how much."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def checked_class_weights(
    weights: Sequence[float] | torch.Tensor | None, mode: str
) -> torch.Tensor | None:
    """The weights of the mean over the classes, float64 [C].

    Raises:
        ValueError: they are no list of numbers of at least 0, or the mode has one class.
    """
    if weights is None:
        return None
    if mode == "binary":
        raise ValueError("class_weights is given, but mode 'binary' has one class")
    result = torch.as_tensor(weights, dtype=torch.float64)
    if result.dim() != 1 or not bool((result >= 0).all()):
        raise ValueError(f"class_weights is {weights}, expected numbers of at least 0, one a class")
    return result


def chosen_weights(
    weights: torch.Tensor | None, count: int, classes: list[int] | None
) -> torch.Tensor | None:
    """The weights of the chosen classes out of `count`.

    Raises:
        ValueError: there are not as many weights as classes of the logits.
    """
    if weights is None:
        return None
    if weights.shape[0] != count:
        raise ValueError(
            f"class_weights has {weights.shape[0]} numbers, but the logits have {count} classes"
        )
    return weights if classes is None else weights[classes]


def chosen(classes: list[int] | None, *sums: torch.Tensor) -> list[torch.Tensor]:
    """The sums [..., C] of some classes.

    Raises:
        ValueError: one of them is no class of the logits.
    """
    if classes is None:
        return list(sums)
    count = sums[0].shape[-1]
    if not all(-count <= c < count for c in classes):
        raise ValueError(f"classes is {classes}, but the logits have {count} classes")
    return [x[..., classes] for x in sums]
