"""The tolerance of the whole project: our error against float64 is at most twice PyTorch's own."""

from __future__ import annotations

import math

import torch

_PIECE = 1 << 20  # elements


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """|value - truth| / |truth| (Euclidean norms, in float64); the plain norm where truth is zero.

    NaN and infinities must stand in the same places (the infinities with the same sign), else the
    error is infinite; they are left out of the norms.
    """
    value, truth = value.detach(), truth.detach().double()
    if value.shape != truth.shape:
        raise AssertionError(f"shape {tuple(value.shape)}, expected {tuple(truth.shape)}")
    difference, norm = _norms(value, truth)
    if not math.isfinite(difference):
        finite = truth.isfinite()
        if not torch.equal(value.isfinite(), finite):
            return float("inf")
        if not torch.equal(value[~finite].double().nan_to_num(), truth[~finite].nan_to_num()):
            return float("inf")
        difference, norm = _norms(value[finite], truth[finite])
    return difference / norm if norm > 0 else difference


def _norms(value: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """|value - truth| and |truth|, in pieces: benchmarks compare maps of 10^8 elements, and
    temporaries of that size take longer than the arithmetic."""
    if truth.numel() == 0:
        return 0.0, 0.0
    longest = max(range(truth.dim()), key=truth.size, default=0)
    pieces = [(value, truth)]
    if truth.numel() > _PIECE:
        step = max(1, truth.shape[longest] * _PIECE // truth.numel())
        pieces = list(zip(value.split(step, longest), truth.split(step, longest), strict=True))
    squares = [((v - t).norm().item() ** 2, t.norm().item() ** 2) for v, t in pieces]
    return math.sqrt(sum(s[0] for s in squares)), math.sqrt(sum(s[1] for s in squares))


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
