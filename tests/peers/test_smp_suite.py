"""segmentation_models_pytorch's own tests of the architectures that we have, run on our classes.

They are not in this repository: `FASTSEG_SMP_SOURCES` names a checkout of smp's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastseg
from fastseg.testing.peers import declare_torchvision_ops

declare_torchvision_ops()

# The architecture that each file of its tests is about.
SUITES = {
    "tests/models/test_psp.py": "PSPNet",
    "tests/models/test_deeplab.py": "DeepLabV3Plus",
    "tests/models/test_unet.py": "Unet",
    "tests/models/test_unetplusplus.py": "UnetPlusPlus",
    "tests/models/test_manet.py": "MAnet",
    "tests/models/test_linknet.py": "Linknet",
    "tests/models/test_fpn.py": "FPN",
    "tests/models/test_pan.py": "PAN",
    "tests/models/test_segformer.py": "Segformer",
    "tests/models/test_upernet.py": "UPerNet",
    "tests/models/test_dpt.py": "DPT",
    "tests/base/test_freeze_encoder.py": "Unet",
    "tests/test_base.py": "Unet",
}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_smps_own_tests_pass_on_our_models(suite: str) -> None:
    sources = os.environ.get("FASTSEG_SMP_SOURCES")
    if not sources:
        pytest.skip("FASTSEG_SMP_SOURCES names no checkout of segmentation_models.pytorch")
    if not hasattr(fastseg, SUITES[suite]):
        pytest.skip(f"fastseg has no {SUITES[suite]}")
    for package in ("segmentation_models_pytorch", "huggingface_hub", "safetensors"):
        pytest.importorskip(package)
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "smp_suite", "-p", "no:cacheprovider", "-q", suite],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= 1
