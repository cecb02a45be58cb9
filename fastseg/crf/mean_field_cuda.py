"""Mean-field inference on a GPU: all steps in one native call, and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import _native
from ..ops.permutohedral_filter.native_cuda import is_capturing

if TYPE_CHECKING:
    from .mean_field import Kernel


def _core() -> Any:
    assert _native._C is not None
    return _native._C.mean_field_cuda


def unsupported_reason(logits: torch.Tensor, kernels: Sequence[Kernel]) -> str | None:
    """Why this engine cannot run on logits [N, L, P], or None."""
    if logits.shape[1] > _core().most_labels:
        return f"{logits.shape[1]} labels (supported on CUDA: up to {_core().most_labels})"
    if any(len(k.lattice.handles or []) > 1 for k in kernels):
        return "a lattice of several parts"
    return None


def probabilities(
    logits: torch.Tensor, kernels: Sequence[Kernel], matrices: Sequence[torch.Tensor], steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [N, L, P] in the dtype of logits, differentiable; and a tensor [1]: the first
    image whose logits or messages are not finite, or 2^31 - 1. The backward keeps the probabilities
    of every step."""
    return _MeanField.apply(logits, steps, tuple(kernels), *matrices)


def labels(
    logits: torch.Tensor, kernels: Sequence[Kernel], matrices: Sequence[torch.Tensor], steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable labels [N, P], int32; and as above."""
    engine = _Engine(logits, kernels, matrices, steps)
    batch, _, pixels = logits.shape
    result = torch.empty(batch, pixels, dtype=torch.int32, device=logits.device)
    return result, engine.forward(engine.rows(logits), engine.empty_rows(1), labels=result)


def is_bad(bad: torch.Tensor) -> int | None:
    """The image that forward found not finite, if any; never while a CUDA graph is captured."""
    if is_capturing(bad):
        return None
    image = int(bad)
    return None if image == 2**31 - 1 else image


class _Engine:
    """The terms of one problem in native form. Maps are rows [N, P, stride] of float32."""

    def __init__(
        self,
        logits: torch.Tensor,
        kernels: Sequence[Kernel],
        matrices: Sequence[torch.Tensor | None],
        steps: int = 0,
        adjoint: bool = False,
    ) -> None:
        self.batch, self.labels, self.pixels = logits.shape
        self.device = logits.device
        self.shape = _core().Shape(
            batch=self.batch, labels=self.labels, pixels=self.pixels, steps=steps
        )
        made = [
            _term(k, m, self.shape.stride, adjoint) for k, m in zip(kernels, matrices, strict=True)
        ]
        self._terms = [term for term, _ in made]
        self._kept = [tensors for _, tensors in made]

    def empty_rows(self, steps: int) -> torch.Tensor:
        shape = (steps, self.batch, self.pixels, self.shape.stride)
        return torch.empty(shape, device=self.device)

    def rows(self, maps: torch.Tensor) -> torch.Tensor:
        """Of maps [N, L, P]."""
        rows = torch.zeros(self.batch, self.pixels, self.shape.stride, device=self.device)
        rows[:, :, : self.labels] = maps.detach().transpose(1, 2)
        return rows

    def maps(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """[N, L, P] of rows."""
        shape = (self.batch, self.labels, self.pixels)
        maps = torch.empty(shape, dtype=dtype, device=self.device)
        return maps.copy_(rows[:, :, : self.labels].transpose(1, 2))

    def forward(
        self, logits: torch.Tensor, steps: torch.Tensor, *, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fills the probabilities of each step, or of the last one alone, or the last labels."""
        bad = torch.full((1,), 2**31 - 1, dtype=torch.int32, device=self.device)
        self._launch("forward", len(steps) > 1, logits, steps, labels, bad)
        return bad

    def messages(self, rows: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """The sum of what the terms make of rows."""
        out = torch.empty_like(rows)
        self._launch("messages", transpose, rows, out)
        return out

    def _launch(self, function: str, option: bool, *maps: torch.Tensor | None) -> None:
        if self.batch == 0:
            return
        core = _core()
        size = core.workspace_floats(self._terms, self.shape)
        workspace = torch.empty(size, device=self.device)
        addresses = (0 if x is None else x.data_ptr() for x in (*maps, workspace))
        assert maps[0] is not None
        _native.launch(core, function, maps[0], self._terms, self.shape, option, *addresses)


class _MeanField(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        steps: int,
        kernels: tuple[Kernel, ...],
        *matrices: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        engine = _Engine(logits, kernels, matrices, steps)
        differentiable = any(ctx.needs_input_grad)
        q = engine.empty_rows(steps + 1 if differentiable else 1)
        bad = engine.forward(engine.rows(logits), q)
        ctx.kernels = kernels
        if differentiable:
            ctx.save_for_backward(q, logits, *matrices)
        ctx.mark_non_differentiable(bad)
        return engine.maps(q[-1], logits.dtype), bad

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        steps, logits, *matrices = ctx.saved_tensors
        adjoint = _Engine(logits, ctx.kernels, matrices, adjoint=True)
        filters = {
            i: _Engine(logits, [kernel], [None])
            for i, kernel in enumerate(ctx.kernels)
            if ctx.needs_input_grad[3 + i]
        }
        grad = adjoint.rows(grads[0])
        grad_logits = torch.zeros_like(grad)
        sums: list[Any] = [None for _ in matrices]
        for step in range(len(steps) - 1, -1, -1):
            q = steps[step]
            to_sum = q * (grad - (q * grad).sum(2, keepdim=True))
            grad_logits += to_sum
            if step == 0:
                break
            for i, filtered in filters.items():
                own = _contract(to_sum, filtered.messages(steps[step - 1]), matrices[i].dim())
                sums[i] = own if sums[i] is None else sums[i] + own
            grad = adjoint.messages(to_sum, transpose=True)
        count = logits.shape[1]
        grad_matrices = [
            None if needed is False else torch.zeros_like(m) if s is None else _cut(s, count, m)
            for s, m, needed in zip(sums, matrices, ctx.needs_input_grad[3:], strict=True)
        ]
        return adjoint.maps(grad_logits, logits.dtype), None, None, *grad_matrices


def _contract(grad: torch.Tensor, filtered: torch.Tensor, dim: int) -> torch.Tensor:
    """The gradient to a compatibility of so many dimensions."""
    if dim == 2:
        return grad.flatten(0, 1).T @ filtered.flatten(0, 1)
    product = grad * filtered
    return (
        product.sum(dtype=torch.float64) if dim == 0 else product.sum((0, 1), dtype=torch.float64)
    )


def _cut(sums: torch.Tensor, labels: int, like: torch.Tensor) -> torch.Tensor:
    for dim in range(like.dim()):
        sums = sums.narrow(dim, 0, labels)
    return sums.to(like.dtype)


def _term(
    kernel: Kernel, matrix: torch.Tensor | None, stride: int, adjoint: bool
) -> tuple[Any, Any]:
    """The kernel in native form, with the tensors that its addresses belong to; without a matrix,
    the filter alone."""
    assert kernel.lattice.handles is not None
    (lattice,) = kernel.lattice.handles
    weights, entry_weights = lattice.weights, lattice.entry_weights
    scale_in, scale_out = kernel.lattice.scales(kernel.normalization)
    if adjoint:
        scale_in, scale_out = scale_out, scale_in
    if scale_in is not None:
        entry_weights = entry_weights * scale_in.reshape(-1).index_select(0, lattice.entry_pixels)
    if scale_out is not None:
        weights = (weights.view(-1, lattice.corners) * scale_out.reshape(-1, 1)).view(-1)
    factors = transposed = None
    if matrix is not None and matrix.dim() == 2:
        columns = matrix.detach().float() if adjoint else matrix.detach().float().T
        transposed = torch.nn.functional.pad(columns, (0, stride - len(matrix))).contiguous()
    elif matrix is not None:
        factors = matrix.detach().float()
        factors = factors.expand(stride) if matrix.dim() == 0 else factors
        factors = torch.nn.functional.pad(factors, (0, stride - len(factors))).contiguous()
    kept = (weights, entry_weights, factors, transposed)
    names = ("weights", "entry_weights", "factors", "transposed")
    addresses = {
        name: 0 if x is None else x.data_ptr() for name, x in zip(names, kept, strict=True)
    }
    return _core().Term(lattice=lattice.native, **addresses), kept
