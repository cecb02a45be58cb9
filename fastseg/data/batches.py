"""The batches of a training run: the same ones whatever the number of processes and threads."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

import numpy
import torch

from .augment import Augmentation
from .split import Split
from .threads import pool_of


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of training samples.

    Attributes:
        images: views of the images, uint8 [N, h, w, C].
        labels: their labels, uint8 [N, h, w].
        colors: their colour changes, affine maps [N, C, C + 1].
    """

    images: torch.Tensor
    labels: torch.Tensor
    colors: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The order of images in the endless sequence of training samples.

    Random permutations of the images follow each other; a batch may cross from one into the next.
    Sample p and its randomness depend on seed and p alone.

    Attributes:
        count: number of images, at least 1.
        seed: of the permutations and of each sample's randomness.
    """

    count: int
    seed: int

    def image(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        return int(self._order(epoch)[place])

    def randomness(self, position: int) -> numpy.random.Generator:
        epoch, _ = divmod(position, self.count)
        return numpy.random.default_rng((self.seed, 1, epoch, self.image(position)))

    def _order(self, epoch: int) -> numpy.ndarray:
        return numpy.random.default_rng((self.seed, 0, epoch)).permutation(self.count)


class Batches:
    """Makes batches ahead of time in threads; Pillow works outside of Python's lock.

    Args:
        split: images and labels.
        augmentation: makes a random view of each.
        sampler: order of the images.
        threads: number of threads that make samples; with 0 a batch is made when it is asked for.
        ahead: number of batches that are made before they are asked for.
    """

    def __init__(
        self,
        split: Split,
        augmentation: Augmentation,
        sampler: Sampler,
        *,
        threads: int = 0,
        ahead: int = 2,
    ) -> None:
        self.split, self.augmentation, self.sampler = split, augmentation, sampler
        self.threads, self.ahead = threads, ahead

    def sample(self, position: int) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """View, labels and colour change of one sample of the sequence."""
        image, label = self.split.load(self.sampler.image(position))
        return self.augmentation(image, label, self.sampler.randomness(position))

    def stream(self, groups: Iterator[range]) -> Iterator[Batch]:
        """One batch for each group of positions."""
        if self.threads == 0:
            for group in groups:
                yield _stack([self.sample(position) for position in group])
            return
        waiting: deque[list[Future]] = deque()
        with pool_of(self.threads) as pool:
            try:
                for group in groups:
                    waiting.append([pool.submit(self.sample, position) for position in group])
                    if len(waiting) > self.ahead:
                        yield _stack([future.result() for future in waiting.popleft()])
                while waiting:
                    yield _stack([future.result() for future in waiting.popleft()])
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _stack(samples: list[tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]]) -> Batch:
    images, labels, colors = (
        torch.from_numpy(numpy.stack(part)) for part in zip(*samples, strict=True)
    )
    return Batch(images, labels, colors)
