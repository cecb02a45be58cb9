"""The default model, from a photograph to its label map, against smp's eager float32 forward and
argmax with the same weights.

The photographs are CamVid's validation images, which are not in the repository: data/camvid in the
folder FASTSEG_SHARED, by default ../shared. The peer runs in channels_last and in NCHW, on images
that are padded as ours are; ours is `fastseg.fuse` in float32 and in bfloat16.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from race import FORMATS, race

import fastseg
from fastseg.bench.cases import as_word
from fastseg.bench.timing import Variant
from fastseg.models.default import default_model
from fastseg.testing.peers import declare_torchvision_ops

SHARED = Path(os.environ.get("FASTSEG_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CAMVID = SHARED / "data/camvid"
# Of 101; each is one call of the warm-up, in which labels are compared.
EVERY = 12
# Share of the pixels that must have the label of float32.
AGREEMENT = {torch.float32: 0.9999, torch.bfloat16: 0.999}


def _photographs(model: Any, device: str) -> list[torch.Tensor]:
    Image = pytest.importorskip("PIL.Image")
    paths = sorted((CAMVID / "images/val").glob("*"))[::EVERY]
    if not paths:
        pytest.skip(f"no photographs in {CAMVID}/images/val")
    return [
        model.preprocess(numpy.array(Image.open(path).convert("RGB"))).to(device) for path in paths
    ]


def _smp(model: Any, device: str) -> Any:
    declare_torchvision_ops()
    smp = pytest.importorskip("segmentation_models_pytorch")
    peer = smp.DeepLabV3Plus(
        "mobilenet_v2",
        encoder_weights=None,
        classes=len(model.classes),
        decoder_atrous_rates=(3, 6, 9),
    )
    peer.load_state_dict(model.state_dict())
    return peer.to(device).eval()


@pytest.mark.parametrize("dtype", AGREEMENT, ids=as_word)
def test_photograph_to_labels(
    dtype: torch.dtype, benchmark: Any, say: Callable[[str], None], pytestconfig: pytest.Config
) -> None:
    quick = pytestconfig.getoption("--quick")
    device = "cuda" if torch.cuda.is_available() and not pytestconfig.getoption("--cpu") else "cpu"
    model = default_model().to(device)
    ours, peer = fastseg.fuse(model, dtype), _smp(model, device)
    images = _photographs(model, device)[: 2 if quick else None]
    height, width = images[0].shape[2:]

    def labels(network: Any, x: torch.Tensor) -> torch.Tensor:
        return network(model.pad(x))[:, :, :height, :width].argmax(1)

    with torch.inference_mode():
        same = [(ours.predict_labels(x) == labels(peer, x)).double().mean().item() for x in images]
    agreement = sum(same) / len(same)
    assert agreement >= AGREEMENT[dtype]

    def run(call: Callable[[torch.Tensor], torch.Tensor], layout: torch.memory_format) -> Any:
        x = images[0].contiguous(memory_format=layout)

        @torch.inference_mode()
        def one(_: Any) -> torch.Tensor:
            return call(x)

        return one

    variants = [Variant("fastseg channels_last", run(ours.predict_labels, torch.channels_last))]
    for name, layout in FORMATS.items():
        network = _smp(model, device).to(memory_format=layout)
        variants.append(
            Variant(f"smp {name}", run(lambda x, network=network: labels(network, x), layout))
        )
    race(
        f"default model {width}x{height} {str(dtype).removeprefix('torch.')}",
        variants,
        peer="smp",
        device=device,
        budget_s=1.5 if quick else 10.0,
        group="default-model",
        benchmark=benchmark,
        say=say,
        note=f"({agreement:.3%} of the labels)",
        labels_equal=agreement,
    )
