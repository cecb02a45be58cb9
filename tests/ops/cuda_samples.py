"""Samples for the paths of CUDA kernels that the samples of an op (samples.py) do not reach: a row
per mask, tail, tile and vector path. They run in the emulation and on GPUs."""

from __future__ import annotations

from fastseg.testing import Sample

CUDA_SAMPLES: dict[str, tuple[Sample, ...]] = {}
