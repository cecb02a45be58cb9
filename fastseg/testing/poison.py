"""Uninitialised memory made visible."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch


@contextlib.contextmanager
def poisoned_empty() -> Iterator[None]:
    """Inside, torch.empty and empty_like return NaN (floats) or the largest value (integers)."""

    def poison(create: Any) -> Any:
        def create_poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
            x = create(*args, **kwargs)
            if x.dtype.is_floating_point:
                return x.fill_(float("nan"))
            return x.fill_(torch.iinfo(x.dtype).max) if x.dtype is not torch.bool else x

        return create_poisoned

    with (
        mock.patch.object(torch, "empty", poison(torch.empty)),
        mock.patch.object(torch, "empty_like", poison(torch.empty_like)),
    ):
        yield
