"""Mean-field inference on a GPU: all steps in one native call, without gradients."""

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


def unsupported_reason(
    logits: torch.Tensor, kernels: Sequence[Kernel], matrices: Sequence[torch.Tensor]
) -> str | None:
    """Why this engine cannot run on logits [N, L, P], or None."""
    if logits.shape[1] > _core().most_labels:
        return f"{logits.shape[1]} labels (supported on CUDA: up to {_core().most_labels})"
    if any(len(k.lattice.handles or []) > 1 for k in kernels):
        return "a lattice of several parts"
    tensors = (logits, *matrices)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return "no gradients on CUDA yet"
    return None


def forward(
    logits: torch.Tensor,
    kernels: Sequence[Kernel],
    matrices: Sequence[torch.Tensor],
    steps: int,
    *,
    labels: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [N, L, P] in the dtype of logits, or int32 labels [N, P]; and a tensor [1]: the
    first image whose logits or messages are not finite, or 2^31 - 1."""
    core, (batch, count, pixels), device = _core(), logits.shape, logits.device
    bad = torch.full((1,), 2**31 - 1, dtype=torch.int32, device=device)
    if batch == 0:
        empty = torch.empty(0, pixels, dtype=torch.int32, device=device)
        return (empty if labels else torch.empty_like(logits)), bad
    shape = core.Shape(batch=batch, labels=count, pixels=pixels, steps=steps)
    rows = torch.zeros(batch, pixels, shape.stride, device=device)
    rows[:, :, :count] = logits.detach().transpose(1, 2)
    made = [_term(k, m, shape.stride) for k, m in zip(kernels, matrices, strict=True)]
    terms, kept = [term for term, _ in made], [tensors for _, tensors in made]
    workspace = torch.empty(core.workspace_floats(terms, shape), device=device)
    probabilities = torch.empty_like(rows)
    map = torch.empty(batch, pixels, dtype=torch.int32, device=device) if labels else None
    maps = (rows, probabilities, map, bad, workspace)
    addresses = (0 if x is None else x.data_ptr() for x in maps)
    _native.launch(core, "forward", logits, terms, shape, *addresses)
    del kept  # freed in the order of the stream
    if map is not None:
        return map, bad
    result = torch.empty(logits.shape, dtype=logits.dtype, device=device)
    return result.copy_(probabilities[:, :, :count].transpose(1, 2)), bad


def is_bad(bad: torch.Tensor) -> int | None:
    """The image that forward found not finite, if any; never while a CUDA graph is captured."""
    if is_capturing(bad):
        return None
    image = int(bad)
    return None if image == 2**31 - 1 else image


def _term(kernel: Kernel, matrix: torch.Tensor, stride: int) -> tuple[Any, Any]:
    """The kernel as the native core takes it, with the tensors that its addresses belong to."""
    assert kernel.lattice.handles is not None
    (lattice,) = kernel.lattice.handles
    weights, entry_weights = lattice.weights, lattice.entry_weights
    scale_in, scale_out = kernel.lattice.scales(kernel.normalization)
    if scale_in is not None:
        entry_weights = entry_weights * scale_in.reshape(-1).index_select(0, lattice.entry_pixels)
    if scale_out is not None:
        weights = (weights.view(-1, lattice.corners) * scale_out.reshape(-1, 1)).view(-1)
    matrix = matrix.detach().float()
    factors = transposed = None
    if matrix.dim() == 2:
        transposed = torch.nn.functional.pad(matrix.T, (0, stride - len(matrix))).contiguous()
    else:
        factors = matrix.expand(stride) if matrix.dim() == 0 else matrix
        factors = torch.nn.functional.pad(factors, (0, stride - len(factors))).contiguous()
    kept = (weights, entry_weights, factors, transposed)
    names = ("weights", "entry_weights", "factors", "transposed")
    addresses = {
        name: 0 if x is None else x.data_ptr() for name, x in zip(names, kept, strict=True)
    }
    return _core().Term(lattice=lattice.native, **addresses), kept
