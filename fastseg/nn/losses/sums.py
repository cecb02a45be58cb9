"""Lets losses share two passes over the pixels: each names the sums that it depends on."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from ...ops.upsample_class_sums import upsample_class_sums

MODES = ("binary", "multiclass", "multilabel")
NO_INDEX = -100  # no class, and in no mask


@dataclasses.dataclass(frozen=True)
class Request:
    """The sums that a loss needs, and how pixels are read for them."""

    names: tuple[str, ...]
    activation: str
    ignore_index: int
    align_corners: bool
    process_group: Any = None
    from_logits: bool = True
    gamma: float = 2.0
    reduced_threshold: float = 0.0

    def focal(self) -> bool:
        """Whether gamma and reduced_threshold matter."""
        return any("focal" in name for name in self.names)

    def fits(self, other: Request) -> bool:
        """Whether one call can serve both, whatever sums they ask for."""
        names = ["activation", "ignore_index", "align_corners", "from_logits", "process_group"]
        if self.focal() and other.focal():
            names += ["gamma", "reduced_threshold"]
        return all(getattr(self, name) == getattr(other, name) for name in names)


class Sums:
    """Sums by name: [N, C] of each image, [C] of the batch.

    Args:
        values: float64 [N, K, C].
        names: of the K sums.
        elements: numbers that the full-resolution logits would have, [N, C, H, W].
        hard: the target is 0 or 1 everywhere, so that "minimum" is "overlap".
        process_group: the sums of the batch are added up over its processes; the gradient to each
            process is then that of all losses, as DistributedDataParallel's mean expects. None: of
            this process alone.
    """

    def __init__(
        self,
        values: torch.Tensor,
        names: tuple[str, ...],
        elements: int,
        process_group: Any = None,
        hard: bool = False,
    ) -> None:
        self._values, self._names, self._hard = values, names, hard
        self.classes = values.shape[-1]
        self.elements = torch.full((), elements, dtype=torch.float64, device=values.device)
        self._batch = values.sum(0)
        if process_group is not None:
            self._batch, self.elements = _all_reduced(self._batch, self.elements, process_group)

    def image(self, name: str) -> torch.Tensor:
        """[N, C]"""
        return self._values[:, self._place(name)]

    def batch(self, name: str) -> torch.Tensor:
        """[C]"""
        return self._batch[self._place(name)]

    def _place(self, name: str) -> int:
        return self._names.index(cheapest(name, self._hard))


def cheapest(name: str, hard: bool) -> str:
    """The sum that stands for `name`."""
    return "overlap" if hard and name == "minimum" else name


def _all_reduced(
    batch: torch.Tensor, elements: torch.Tensor, process_group: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    from torch.distributed.nn.functional import all_reduce

    group = None if process_group is True else process_group
    joined = all_reduce(torch.cat([batch.flatten(), elements.view(1)]), group=group)
    return joined[:-1].view_as(batch), joined[-1].detach()


class SumsLoss(nn.Module):
    """A loss that is a function of sums over the pixels.

    Args:
        mode: "binary" (one class, sigmoid), "multiclass" (softmax) or "multilabel" (sigmoid of
            each class).
        ignore_index: target value of pixels that do not count, or None.
        align_corners: as in F.interpolate.
        process_group: adds the sums of all processes of the group up, so that the loss is that of
            the joined batch; True for the default group, None for this process alone.
    """

    def __init__(
        self,
        mode: str = "multiclass",
        ignore_index: int | None = None,
        align_corners: bool = False,
        process_group: Any = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, allowed are {', '.join(map(repr, MODES))}")
        self.mode = mode
        self.ignore_index = ignore_index
        self.align_corners = align_corners
        self.process_group = process_group

    def request(self) -> Request:
        """What the loss needs."""
        raise NotImplementedError

    def of_sums(self, sums: Sums) -> torch.Tensor:
        """The loss, a float64 scalar."""
        raise NotImplementedError

    def forward(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        pixel_weight: torch.Tensor | None = None,
        *,
        align_corners: bool | None = None,
    ) -> torch.Tensor:
        """The loss of low-resolution logits, a float32 scalar (float64 for float64 logits).

        Args:
            logits: map [N, C, h, w]; they are upsampled to the target's size.
            target: multiclass: classes [N, H, W] or [N, 1, H, W], or shares [N, C, H, W];
                binary: masks [N, H, W] or [N, 1, H, W]; multilabel: masks [N, C, H, W].
            pixel_weight: weight of each pixel [N, H, W], or None.
            align_corners: instead of the loss's own.
        """
        return evaluate([(1.0, self)], logits, target, pixel_weight, align_corners)

    def _request(self, *names: str, **options: Any) -> Request:
        activation = options.pop(
            "activation", "softmax" if self.mode == "multiclass" else "sigmoid"
        )
        ignored = NO_INDEX if self.ignore_index is None else self.ignore_index
        return Request(
            names, activation, ignored, self.align_corners, self.process_group, **options
        )


def evaluate(
    terms: list[tuple[float, SumsLoss]],
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None = None,
    align_corners: bool | None = None,
) -> torch.Tensor:
    """The weighted sum of losses: one pass forward and one backward for all that agree on the
    activation and on how the pixels are read."""
    groups: list[list[tuple[float, SumsLoss, Request]]] = []
    for weight, loss in terms:
        request = loss.request()
        fitting = [g for g in groups if all(request.fits(other) for _, _, other in g)]
        if not fitting:
            fitting.append([])
            groups.append(fitting[0])
        fitting[0].append((weight, loss, request))
    total: torch.Tensor | None = None
    for group in groups:
        requests = [request for _, _, request in group]
        first = next((request for request in requests if request.focal()), requests[0])
        read = as_target(target, logits, group[0][1].mode)
        # With a softmax the overlap with shares is sum p y: smp takes labels alone there.
        hard = not read.is_floating_point() or first.activation == "softmax"
        every = (cheapest(name, hard) for request in requests for name in request.names)
        names = tuple(dict.fromkeys(every))
        given = logits
        if not first.from_logits:
            given = _logits_of(logits, read, first.activation)
        values = upsample_class_sums(
            given,
            read,
            names,
            first.activation,
            ignore_index=first.ignore_index,
            pixel_weight=pixel_weight,
            gamma=first.gamma,
            reduced_threshold=first.reduced_threshold,
            align_corners=first.align_corners if align_corners is None else align_corners,
        )
        elements = logits.shape[0] * logits.shape[1] * read.shape[-2] * read.shape[-1]
        sums = Sums(values, names, elements, first.process_group, hard)
        for weight, loss, _ in group:
            part = loss.of_sums(sums) * weight
            total = part if total is None else total + part
    assert total is not None
    return total.to(torch.float64 if logits.dtype is torch.float64 else torch.float32)


def _logits_of(p: torch.Tensor, target: torch.Tensor, activation: str) -> torch.Tensor:
    """Logits whose softmax (of probabilities that sum to 1) or sigmoid is p."""
    if p.shape[2:] != target.shape[-2:]:
        raise ValueError(
            f"logits has the size {tuple(p.shape[2:])}, expected {tuple(target.shape[-2:])} as "
            "target: with from_logits=False they are not upsampled"
        )
    least = torch.finfo(p.dtype).tiny
    if activation == "softmax":
        return p.clamp_min(least).log()
    return p.clamp_min(least).log() - (1.0 - p).clamp_min(least).log()


def as_target(target: torch.Tensor, logits: torch.Tensor, mode: str) -> torch.Tensor:
    """`target` in the form that upsample_class_sums takes.

    Raises:
        ValueError: its shape does not fit the mode.
    """
    classes = logits.shape[1] if logits.dim() == 4 else 1
    if mode == "binary":
        if classes != 1:
            raise ValueError(f"logits has {classes} classes, expected 1 for mode 'binary'")
        if target.dim() == 3 and target.is_floating_point():
            return target[:, None]
        if target.dim() == 4 and target.shape[1] == 1 and not target.is_floating_point():
            return target[:, 0]
        return target
    if mode == "multilabel":
        if target.dim() != 4:
            raise ValueError(
                f"target has shape {tuple(target.shape)}, expected masks [N, C, H, W] for mode "
                "'multilabel'"
            )
        return target
    if target.dim() == 4 and target.shape[1] == 1 and not target.is_floating_point():
        return target[:, 0]
    return target
