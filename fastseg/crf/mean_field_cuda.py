"""Mean-field inference on a GPU: all steps in one native call, and its derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .. import _native
from ..ops.permutohedral_filter.device_lattice import is_capturing

if TYPE_CHECKING:
    from .mean_field import Kernel

_NAME = "mean_field_cuda"


def unsupported_reason(logits: torch.Tensor, kernels: Sequence[Kernel]) -> str | None:
    """Why this engine cannot run on logits [N, L, P], or None."""
    most = _native.core(_NAME).most_labels
    if logits.shape[1] > most:
        return f"{logits.shape[1]} labels (supported on CUDA: up to {most})"
    if any(len(k.lattice.handles or []) > 1 for k in kernels):
        return "a lattice of several parts"
    return None


def probabilities(
    logits: torch.Tensor, kernels: Sequence[Kernel], matrices: Sequence[torch.Tensor], steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes probabilities [N, L, P] in the dtype of logits, differentiable.

    Returns them with a tensor [1]: the first image whose logits or messages are not finite, or
    2^31 - 1. For the backward only the vertices of each step are kept; it recomputes the
    probabilities from them.
    """
    return _MeanField.apply(logits, steps, tuple(kernels), *matrices)


def labels(
    logits: torch.Tensor, kernels: Sequence[Kernel], matrices: Sequence[torch.Tensor], steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the most probable labels [N, P], int32; second result: as of probabilities."""
    engine = _Engine(logits, kernels, matrices, steps)
    batch, _, pixels = logits.shape
    result = torch.empty(batch, pixels, dtype=torch.int32, device=logits.device)
    return result, engine.forward(engine.rows(logits), engine.empty_rows(), labels=result)


def is_bad(bad: torch.Tensor) -> int | None:
    """The image that forward found not finite, or None; always None while a graph is captured."""
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
        matrices: Sequence[torch.Tensor],
        steps: int = 0,
        adjoint: bool = False,
    ) -> None:
        self.batch, self.labels, self.pixels = logits.shape
        self.device = logits.device
        self.shape = _native.core(_NAME).Shape(
            batch=self.batch, labels=self.labels, pixels=self.pixels, steps=steps
        )
        made = [
            _term(k, m, self.shape.stride, adjoint) for k, m in zip(kernels, matrices, strict=True)
        ]
        self._terms = [term for term, _ in made]
        self._kept = [tensors for _, tensors in made]

    def empty_rows(self) -> torch.Tensor:
        return torch.empty(self.batch, self.pixels, self.shape.stride, device=self.device)

    def empty_tables(self, steps: int) -> torch.Tensor:
        """Allocates the tables that keep the filtered vertices of each step."""
        size = _native.core(_NAME).table_floats(self._terms, self.shape)
        return torch.empty(steps, size, device=self.device)

    def rows(self, maps: torch.Tensor) -> torch.Tensor:
        """Turns maps [N, L, P] into rows; what fills a row up is 0."""
        rows = torch.zeros(self.batch, self.pixels, self.shape.stride, device=self.device)
        rows[:, :, : self.labels] = maps.detach().transpose(1, 2)
        return rows

    def maps(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Turns rows into maps [N, L, P]."""
        shape = (self.batch, self.labels, self.pixels)
        maps = torch.empty(shape, dtype=dtype, device=self.device)
        return maps.copy_(rows[:, :, : self.labels].transpose(1, 2))

    def forward(
        self,
        logits: torch.Tensor,
        q: torch.Tensor,
        *,
        labels: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Fills q with the last probabilities, or labels, and kept with the tables of each step."""
        bad = torch.full((1,), 2**31 - 1, dtype=torch.int32, device=self.device)
        self._launch("forward", logits, q, labels, bad, kept, self._workspace())
        return bad

    def probabilities_again(self, logits: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """Recomputes the probabilities after the step that saved `kept`; None: before the first."""
        q = self.empty_rows()
        self._launch("probabilities_again", logits, kept, q, self._workspace())
        return q

    def filtered_again(self, term: int, kept: torch.Tensor) -> torch.Tensor:
        """Recomputes a term's filter output of the step that saved `kept`."""
        out = self.empty_rows()
        self._launch("filtered_again", term, kept, out)
        return out

    def messages(self, rows: torch.Tensor, transpose: bool = False) -> torch.Tensor:
        """Sums the messages of all terms for the probabilities in `rows`."""
        out = torch.empty_like(rows)
        self._launch("messages", transpose, rows, out, self._workspace())
        return out

    def _workspace(self) -> torch.Tensor:
        size = _native.core(_NAME).workspace_floats(self._terms, self.shape)
        return torch.empty(size, device=self.device)

    def _launch(self, function: str, *args: torch.Tensor | int | None) -> None:
        if self.batch == 0:
            return
        numbers = [a.data_ptr() if isinstance(a, torch.Tensor) else a or 0 for a in args]
        like = next(a for a in args if isinstance(a, torch.Tensor))
        _native.launch(_native.core(_NAME), function, like, self._terms, self.shape, *numbers)


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
        q = engine.empty_rows()
        # Tables of vertices: a photograph has far fewer of them than probabilities.
        kept = engine.empty_tables(steps) if any(ctx.needs_input_grad) else None
        bad = engine.forward(engine.rows(logits), q, kept=kept)
        ctx.kernels = kernels
        if kept is not None:
            ctx.save_for_backward(kept, logits, *matrices)
        ctx.mark_non_differentiable(bad)
        return engine.maps(q, logits.dtype), bad

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        kept, logits, *matrices = ctx.saved_tensors
        engine = _Engine(logits, ctx.kernels, matrices)
        adjoint = _Engine(logits, ctx.kernels, matrices, adjoint=True)
        trained = [i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        rows, grad = engine.rows(logits), engine.rows(grads[0])
        grad_logits = torch.zeros_like(grad)
        sums: list[Any] = [None for _ in matrices]
        # From the last step back: the derivative of the softmax, then the adjoint of the messages.
        # After step 0, which is the softmax of the logits alone, there are no messages.
        for step in range(len(kept), -1, -1):
            tables = kept[step - 1] if step > 0 else None
            q = engine.probabilities_again(rows, tables)
            # d softmax: what reaches the sum of logits and messages.
            to_sum = q * (grad - (q * grad).sum(2, keepdim=True))
            grad_logits += to_sum
            if tables is None:
                break
            for i in trained:
                own = _contract(to_sum, engine.filtered_again(i, tables), matrices[i].dim())
                sums[i] = own if sums[i] is None else sums[i] + own
            grad = adjoint.messages(to_sum, transpose=True)
        count = logits.shape[1]
        grad_matrices = [
            None if needed is False else torch.zeros_like(m) if s is None else _cut(s, count, m)
            for s, m, needed in zip(sums, matrices, ctx.needs_input_grad[3:], strict=True)
        ]
        return engine.maps(grad_logits, logits.dtype), None, None, *grad_matrices


def _contract(grad: torch.Tensor, filtered: torch.Tensor, dim: int) -> torch.Tensor:
    """Gradient of a `dim`-dimensional compatibility."""
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


def _term(kernel: Kernel, matrix: torch.Tensor, stride: int, adjoint: bool) -> tuple[Any, Any]:
    """The kernel in native form, and the tensors that must outlive it: it holds their addresses."""
    assert kernel.lattice.handles is not None
    (lattice,) = kernel.lattice.handles
    weights, entry_weights = lattice.weights, lattice.entry_weights
    scale_in, scale_out = kernel.lattice.scales(kernel.normalization)
    if adjoint:  # the transpose of diag(out) F diag(in)
        scale_in, scale_out = scale_out, scale_in
    # Scales go into the weights once, instead of into the values at each step.
    if scale_in is not None:
        entry_weights = entry_weights * scale_in.reshape(-1).index_select(0, lattice.entry_pixels)
    if scale_out is not None:
        weights = (weights.view(-1, lattice.corners) * scale_out.reshape(-1, 1)).view(-1)
    factors = transposed = None
    if matrix.dim() == 2:
        columns = matrix.detach().float() if adjoint else matrix.detach().float().T
        transposed = torch.nn.functional.pad(columns, (0, stride - len(matrix))).contiguous()
    else:
        factors = matrix.detach().float()
        factors = factors.expand(stride) if matrix.dim() == 0 else factors
        factors = torch.nn.functional.pad(factors, (0, stride - len(factors))).contiguous()
    kept = (weights, entry_weights, factors, transposed)
    names = ("weights", "entry_weights", "factors", "transposed")
    addresses = {
        name: 0 if x is None else x.data_ptr() for name, x in zip(names, kept, strict=True)
    }
    return _native.core(_NAME).Term(lattice=lattice.native, **addresses), kept
