"""The entry of a library."""

from __future__ import annotations

import dataclasses

from .queries import Queries
from .swap import Swap


@dataclasses.dataclass(frozen=True)
class Library:
    """A library whose models are accelerated.

    Attributes:
        name: that it is imported under.
        tested: version that the exchanged forwards are tested with; others are noted in the report.
        packages: prefixes of the modules that define its segmentation models. Modules are exchanged
            inside objects of classes from there, whatever these contain.
        swaps: the kinds of modules that are exchanged.
        queries: the kinds of whole models that predict masks of queries.
    """

    name: str
    tested: str
    packages: tuple[str, ...]
    swaps: tuple[Swap, ...]
    queries: tuple[Queries, ...] = ()
