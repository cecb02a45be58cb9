"""Every op's CPU kernels with 64-byte vectors: the AVX-512 shape of the code, on any processor."""

from __future__ import annotations

import pytest
import test_all_ops as generic
from op_cases import DTYPES, Variant, each_filled_sample

from fastseg import Backend

pytestmark = pytest.mark.usefixtures("wide_core")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@each_filled_sample
def test_as_accurate_as_pytorch(op, sample, dtype):
    if Backend.NATIVE not in op.backends:
        pytest.skip("has no native backend")
    generic.test_as_accurate_as_pytorch(op, Variant(Backend.NATIVE), dtype, sample)
