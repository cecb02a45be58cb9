"""Reads files in threads, a few ahead of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..limits import adopt, limits

Result = TypeVar("Result")


def pool_of(threads: int) -> ThreadPoolExecutor:
    """Threads under the limits that hold here."""
    return ThreadPoolExecutor(max(1, threads), initializer=adopt, initargs=(limits(),))


def in_order(
    function: Callable[[Any], Result], items: Iterable[Any], threads: int
) -> Iterator[Result]:
    """map() in threads, with at most four results for each of them in memory."""
    waiting: list[Future[Result]] = []
    with pool_of(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
