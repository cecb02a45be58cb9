"""Runs every CUDA kernel on a few small inputs, for compute-sanitizer (tools/gpu_check.sh).

python tools/gpu_sanitize.py [WORD]     only ops (and mean_field) whose name contains WORD

No PyTorch peers and no second reading of the results: the sanitizer slows everything down, and what
it looks for are the accesses of these kernels.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "ops"))

import op_cases
import torch

from fastseg import Backend, BackendUnavailable, use_backend
from fastseg.crf import Kernel, Lattice, mean_field, mean_field_labels
from fastseg.registry import ALL_OPS

# The smallest: vector and scalar paths, both layouts and odd sizes are among them.
SAMPLES_PER_OP = 8


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    op_cases.DEVICE = "cuda"
    runs = 0
    for op in filter(op_cases.has_cuda_twin, ALL_OPS.values()):
        if word not in op.name:
            continue
        table = op_cases.samples_of(op)
        done = 0
        for sample in sorted(op_cases._cuda_samples(op), key=_size):
            try:
                for dtype in (torch.float32, torch.bfloat16):
                    with use_backend(Backend.NATIVE):
                        op_cases.forward_and_gradients(
                            table.function, op_cases.inputs(sample, dtype), table.differentiable
                        )
            except BackendUnavailable:
                continue
            runs, done = runs + 1, done + 1
            if done == SAMPLES_PER_OP:
                break
    if word in "mean_field":
        runs += run_mean_field(op_cases.DEVICE)
    torch.cuda.synchronize()
    print(f"{runs} samples, forward and backward")
    return 0 if runs or word else 1


def run_mean_field(device: str) -> int:
    """Inference and derivative with a number, a vector and a matrix; how many."""
    generator = torch.Generator().manual_seed(0)
    kinds = ((3, 0), (21, 1), (40, 2))
    for labels, kind in kinds:

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(device)

        logits = random(2, labels, 37).requires_grad_()
        matrix = random(*(labels,) * kind).requires_grad_()
        kernels = [Kernel(Lattice(random(2, 37)), matrix), Kernel(Lattice(random(2, 4, 37)), 1.0)]
        with use_backend(Backend.NATIVE):
            mean_field(logits, kernels, 2).square().sum().backward()
            mean_field_labels(logits, kernels, 2)
    return len(kinds)


def _size(sample: op_cases.Sample) -> int:
    return sum(map(torch.numel, op_cases.tensors(op_cases.inputs(sample))))


if __name__ == "__main__":
    sys.exit(main())
