"""FLOPs of a model's modules, counted on a copy without memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .._private_torch import FakeTensorMode
from ..nn.altered import HOOKS
from .swap import swap_in, swap_of, swap_out


class Counter:
    """Counts a model's FLOPs at one image size, before and after swaps.

    A copy of the model runs, whose tensors have shapes but no values; the model itself does not.
    """

    def __init__(self, model: nn.Module, image_size: tuple[int, int]) -> None:
        self._mode = FakeTensorMode()
        tensors = [*model.parameters(), *model.buffers()]
        memo: dict[int, Any] = {id(t): self._mode.from_tensor(t) for t in tensors}
        for parameter in model.parameters():
            memo[id(parameter)] = nn.Parameter(memo[id(parameter)], parameter.requires_grad)
        self._copy = copy.deepcopy(model, memo).eval()
        for module in self._copy.modules():
            for hooks in HOOKS:
                table = getattr(module, hooks)
                for key, hook in list(table.items()):
                    # transformers collects hidden states by hooks; a user's must not see the copy.
                    if not getattr(hook, "__module__", "").startswith("transformers."):
                        del table[key]
        convolution = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
        self._shape = (1, convolution.in_channels, *image_size)
        self._like = convolution.weight

        self._swaps = [(module, swap_of(module)) for module in self._copy.modules()]

    def count(self, accelerated: bool) -> dict[str, int]:
        """FLOPs of the forward by path of the module; the whole model's under ""."""
        from torch.utils.flop_counter import FlopCounterMode  # imports triton where it is installed

        for module, swap in self._swaps:
            if swap is not None:
                swap_in(module, swap) if accelerated else swap_out(module)
        formulas: dict[Any, Callable[..., Any]] = {
            torch.ops.fastseg.dilated_conv2d: _dilated_conv2d_flops,
            # In-place products, which torch's counter passes over.
            torch.ops.aten.addmm_: _product_flops,
            torch.ops.aten.baddbmm_: _product_flops,
        }
        counter = FlopCounterMode(display=False, custom_mapping=formulas)
        # With gradients, without which folding would hide convolutions from the counter.
        with self._mode, torch.enable_grad(), counter:
            x = torch.empty(self._shape, dtype=self._like.dtype, device=self._like.device)
            self._copy(x)
        root = type(self._copy).__name__
        counts = {"": counter.get_total_flops()}
        for name, operators in counter.get_flop_counts().items():
            if name.startswith(f"{root}."):
                counts[name.removeprefix(f"{root}.")] = sum(operators.values())
        return counts


def _dilated_conv2d_flops(
    x: Any, weight: Any, bias: Any, *geometry: Any, out_shape: Any = None, **_: Any
) -> int:
    from torch.utils.flop_counter import conv_flop_count

    return conv_flop_count(x, weight, out_shape)


def _product_flops(_: Any, a: Any, b: Any, *__: Any, **___: Any) -> int:
    return 2 * math.prod(a) * b[-1]
