"""Settings of dense CRFs that people use, for photographs in 0..255."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Preset:
    """A smoothness and an appearance kernel, both Potts and symmetrically normalised.

    Attributes:
        source: publication or program that the numbers come from.
        iterations: mean-field steps.
        width, weight: of the smoothness kernel, width in pixels.
        bilateral_width, color_width, bilateral_weight: of the appearance kernel.
    """

    source: str
    iterations: int
    width: float
    weight: float
    bilateral_width: float
    color_width: float
    bilateral_weight: float


PRESETS = {
    "pydensecrf": Preset("pydensecrf's example", 5, 3, 3, 80, 13, 10),
    "deeplab": Preset("DeepLab v2 with ResNet-101, PASCAL VOC", 10, 1, 3, 67, 3, 4),
    "boundary": Preset("ours: moves edges by some pixels, keeps regions", 5, 2, 3, 20, 8, 5),
}


def preset(name: str) -> Preset:
    """Looks up settings by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}, allowed are {', '.join(map(repr, PRESETS))}")
    return PRESETS[name]
