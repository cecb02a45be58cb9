"""Memory that dense CRFs keep between calls: bounded, and never shared with a living result."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from fastseg import _native
from fastseg.crf import DenseCRF2D, limit_workspaces

pytestmark = pytest.mark.skipif(_native._C is None, reason="the native core is not built")


@pytest.fixture(autouse=True)
def _default_limit():
    before = _native._C.scratch_limit()
    yield
    limit_workspaces(before)


def _infer(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    crf = DenseCRF2D(160, 120, 6)
    crf.setUnaryEnergy(rng.random((6, 160 * 120), dtype=np.float32))
    crf.addPairwiseBilateral(20, 13, rng.integers(0, 255, (120, 160, 3), dtype=np.uint8), 4)
    return crf.inference(2)


def test_results_stay_when_others_are_computed():
    limit_workspaces(1 << 30)
    first = _infer(0)
    copy, half = first.copy(), first[:, ::2]
    del first
    others = [_infer(seed) for seed in (1, 2)]
    assert np.array_equal(half, copy[:, ::2])
    assert np.array_equal(_infer(0), copy)
    assert not any(np.array_equal(other, copy) for other in others)


def test_limit():
    limit_workspaces(1 << 30)
    _infer(0)
    assert _native._C.kept_scratch() > 0
    limit_workspaces(1 << 20)
    assert _native._C.kept_scratch() <= 1 << 20
    _infer(0)
    assert _native._C.kept_scratch() <= 1 << 20
    limit_workspaces(0)
    assert _native._C.kept_scratch() == 0
    with pytest.raises(ValueError, match="max_bytes is -1"):
        limit_workspaces(-1)


def test_a_crf_is_freed_with_its_last_reference():
    crf = DenseCRF2D(8, 8, 2)
    crf.addPairwiseGaussian(3, 2)
    crf.addPairwiseBilateral(8, 13, np.zeros((8, 8, 3), np.uint8), 2)
    gone = weakref.ref(crf)
    gc.disable()
    try:
        del crf
        assert gone() is None
    finally:
        gc.enable()


def test_memory_that_was_kept_is_used_again():
    limit_workspaces(1 << 30)
    _infer(0)
    kept = _native._C.kept_scratch()
    _infer(1)
    assert _native._C.kept_scratch() <= kept + (1 << 22)
