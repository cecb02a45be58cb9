"""The tolerance of the whole project: our error against float64 is at most twice PyTorch's own."""

from __future__ import annotations

import torch


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """|value - truth| / |truth| (Euclidean norms, in float64); the plain norm where truth is zero.

    NaN and infinities must stand in the same places (the infinities with the same sign), else the
    error is infinite; they are left out of the norms.
    """
    value, truth = value.detach().double(), truth.detach().double()
    if value.shape != truth.shape:
        raise AssertionError(f"shape {tuple(value.shape)}, expected {tuple(truth.shape)}")
    finite = truth.isfinite()
    if not torch.equal(value.isfinite(), finite):
        return float("inf")
    if not torch.equal(value[~finite].nan_to_num(), truth[~finite].nan_to_num()):
        return float("inf")
    difference = (value - truth)[finite].norm().item()
    norm = truth[finite].norm().item()
    return difference / norm if norm > 0 else difference


def assert_as_accurate(
    ours: torch.Tensor,
    peer: torch.Tensor,
    truth: torch.Tensor,
    *,
    ratio: float = 2.0,
    what: str = "result",
) -> None:
    """Fails unless the error of `ours` is at most `ratio` times that of `peer`.

    Args:
        ours: our result.
        peer: the result of the PyTorch composition in the same dtype.
        truth: the same in float64.
        ratio: allowed ratio of the two errors.
        what: what is compared, for the message.

    Half a unit in the last place of the storage type is always allowed: a peer may be lucky.
    """
    if ours.dtype != peer.dtype:
        raise AssertionError(f"{what}: dtype {ours.dtype}, expected {peer.dtype}")
    floor = torch.finfo(ours.dtype).eps / 2
    our_error, peer_error = relative_error(ours, truth), relative_error(peer, truth)
    if not our_error <= max(ratio * peer_error, floor):
        worst = (ours.detach().double() - truth.detach().double()).abs().nan_to_num()
        index = tuple(int(i) for i in torch.unravel_index(worst.argmax(), worst.shape))
        raise AssertionError(
            f"{what}: error {our_error:.2e} against float64, PyTorch's own is {peer_error:.2e}; "
            f"worst at {index}: {ours[index].item()} for {truth[index].item()}"
        )


def assert_labels_as_accurate(
    labels: torch.Tensor, peer: torch.Tensor, truth: torch.Tensor, *, ratio: float = 2.0
) -> None:
    """Fails unless `labels` [N, H, W] is truth.argmax(1) wherever `truth` decides.

    Args:
        labels: our class indices, of any integer dtype.
        peer: the scores [N, C, H, W] that PyTorch computes in the same dtype.
        truth: the scores in float64.
        ratio: as in assert_as_accurate.

    Where another class comes closer to the maximum than `ratio` times the largest error of `peer`
    allows two scores to be told apart, that class is right too.
    """
    chosen = truth.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    best, first = truth.max(1)
    wrong = (labels.long() != first) & ~(best - chosen <= _undecided(peer, truth, ratio))
    if wrong.any():
        where = tuple(int(i) for i in wrong.nonzero()[0])
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} labels are wrong, the first at {where}: "
            f"{int(labels[where])} for {int(first[where])}, "
            f"scores {chosen[where].item()} and {best[where].item()}"
        )


def assert_counts_as_accurate(
    counts: torch.Tensor,
    target: torch.Tensor,
    peer: torch.Tensor,
    truth: torch.Tensor,
    *,
    ratio: float = 2.0,
) -> None:
    """Fails unless `counts` [C, C] is the confusion matrix of truth.argmax(1) against `target`.

    Args:
        counts: our counts, rows = target, columns = prediction.
        target: class indices [N, H, W]; pixels outside [0, C) are not counted.
        peer, truth, ratio: as in assert_labels_as_accurate; pixels that `truth` does not decide
            may be counted in any column of their row.
    """
    classes = truth.shape[1]
    counted = (target >= 0) & (target < classes)
    two = truth.topk(min(2, classes), dim=1).values
    decided = counted & ((two[:, 0] - two[:, -1] > _undecided(peer, truth, ratio)) | (classes == 1))
    cells = (target * classes + truth.argmax(1))[decided]
    least = torch.bincount(cells, minlength=classes * classes).view(classes, classes)
    rows = torch.bincount(target[counted], minlength=classes)
    assert torch.equal(counts.sum(1), rows), f"rows sum to {counts.sum(1)}, expected {rows}"
    assert (counts >= least).all(), f"counts are missing: {counts} for at least {least}"


def _undecided(peer: torch.Tensor, truth: torch.Tensor, ratio: float) -> float:
    """Scores closer than this cannot be told apart: both may be off by `ratio` times PyTorch's
    largest error, half a unit in the last place of the largest score being always allowed."""
    finite = truth.isfinite()
    error = (peer.double() - truth)[finite].abs().nan_to_num()
    largest = truth[finite].abs()
    if largest.numel() == 0:
        return 0.0
    floor = torch.finfo(peer.dtype).eps / 2 * largest.max().item()
    return 2.0 * max(ratio * error.max().item(), floor)
