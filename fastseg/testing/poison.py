"""Uninitialised memory made visible."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

_CREATORS = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch.Tensor, "new_empty"),
)


@contextlib.contextmanager
def poisoned_empty() -> Iterator[None]:
    """Inside, memory that Python code allocates uninitialised holds NaN (floats), the largest value
    (integers) or True: torch.empty, empty_like, empty_strided and Tensor.new_empty."""

    def poison(create: Any) -> Any:
        def create_poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
            x = create(*args, **kwargs)
            if x.dtype.is_floating_point:
                return x.fill_(float("nan"))
            return x.fill_(True if x.dtype is torch.bool else torch.iinfo(x.dtype).max)

        return create_poisoned

    with contextlib.ExitStack() as stack:
        for owner, name in _CREATORS:
            create = poison(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, create))
        yield
