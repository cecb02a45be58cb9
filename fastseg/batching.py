"""How registered functions run under torch.vmap: one call for all where images are independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def vmap_rule(op: Any, batched: tuple[str, ...]) -> Callable[..., Any]:
    """The rule for torch.library.register_vmap.

    Where vmap maps over no other arguments than those in `batched`, whose first dimension is the
    batch, as that of every result, they get one long batch. Otherwise the op runs once for each.
    """
    names = [a.name for a in op._schema.arguments]
    folded = [i for i, name in enumerate(names) if name in batched]

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        if op._schema.is_mutable:
            raise NotImplementedError(f"{op} writes to its argument, which vmap cannot map over")
        size = info.batch_size
        mapped = [i for i, dims in enumerate(in_dims) if _is_mapped(dims)]
        if size > 0 and set(mapped) <= set(folded):
            values = list(args)
            for i in folded:
                if isinstance(args[i], torch.Tensor):
                    values[i] = _with_batch_first(args[i], in_dims[i], size).flatten(0, 1)
            return _mapped(op(*values), lambda x: x.unflatten(0, (size, -1)))
        # One call to learn the shapes of the results where there is nothing to map over.
        runs = [
            op(*(_slice(a, d, n) for a, d in zip(args, in_dims, strict=True)))
            for n in range(max(size, 1))
        ]
        if isinstance(runs[0], torch.Tensor):
            return torch.stack(runs)[:size], 0
        stacked = tuple(torch.stack(results)[:size] for results in zip(*runs, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


def _is_mapped(dims: Any) -> bool:
    return any(d is not None for d in dims) if isinstance(dims, (tuple, list)) else dims is not None


def _with_batch_first(x: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _slice(value: Any, dims: Any, n: int) -> Any:
    if isinstance(dims, (tuple, list)):
        return [_slice(v, d, n) for v, d in zip(value, dims, strict=True)]
    if dims is None:
        return value
    if value.shape[dims] == 0:
        return value.new_zeros(value.shape[:dims] + value.shape[dims + 1 :])
    return value.select(dims, n)


def _mapped(output: Any, split: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(output, torch.Tensor):
        return split(output), 0
    return tuple(map(split, output)), (0,) * len(output)
