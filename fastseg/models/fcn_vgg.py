"""The FCN of the paper: VGG-16 with its linear layers as convolutions, and deconvolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..classes import VOC, ClassSet, as_class_set
from ..layout import in_format, map_format
from ..nn.chain import run
from ..nn.deconv import BilinearDeconv2d, crop
from .base import SegmentationModel
from .encoders.vgg import VGG_COUNTS, WIDTHS

# Zeros around the image, so that one of any size has at least one score; where the scores of the
# pixels begin follows from it. Source: Long et al.'s released networks.
MARGIN = 100
# Rows and columns left out before a sum with the scores of a pooling and, by stride, at the end.
FROM_POOL4, FROM_POOL3 = 5, 9
AT_THE_END = {32: 19, 16: 27, 8: 31}


class FCNVGG16(SegmentationModel):
    """FCN-32s, FCN-16s and FCN-8s on VGG-16, with the names of wkentaro's pytorch-fcn.

    VGG-16 with a convolution of 7x7 and one of 1x1 in place of its first linear layers; scores of
    the last features, and for the strides 16 and 8 of the fourth and the third pooling as well,
    are upsampled by deconvolutions and added. Deconvolutions that are still bilinear are computed
    as upsamplings: see fastseg.nn.BilinearDeconv2d.

    Args:
        classes: names and colours of the classes, or only their number.
        stride: 32, 16 or 8: pixels between the finest scores.
        in_channels: of the input.
        widths: channels of the five stages.
        hidden: channels of the two convolutions before the scores.
        dropout: probability, of whole channels, after each of these.
        at_once: scores of the poolings are those of the pooled map times 0.01 and 0.0001, as in
            the networks that were trained in one go.
        learned_deconvolutions: "inner" for all but the last, as in the paper; "all" or "none".
        bgr: `preprocess` gives BGR of 0..255 without the mean, as Caffe's networks expect.

    The scores begin at 0, and the deconvolutions as bilinear upsampling.

    Raises:
        ValueError: an argument out of range.

    Source: Long et al., Fully Convolutional Networks for Semantic Segmentation, 2015.
    """

    def __init__(
        self,
        classes: ClassSet | int = VOC,
        stride: int = 8,
        in_channels: int = 3,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 4096,
        dropout: float = 0.5,
        at_once: bool = False,
        learned_deconvolutions: str = "inner",
        bgr: bool = False,
    ) -> None:
        super().__init__()
        if stride not in AT_THE_END:
            raise ValueError(f"stride is {stride}, allowed are 32, 16 and 8")
        if len(widths) != 5:
            raise ValueError(f"widths has {len(widths)} numbers, expected 5")
        if learned_deconvolutions not in ("all", "inner", "none"):
            raise ValueError(
                f"learned_deconvolutions is {learned_deconvolutions!r}, allowed are 'all', "
                "'inner' and 'none'"
            )
        self.classes = as_class_set(classes)
        count = len(self.classes)
        self.stride, self.at_once, self.bgr = stride, at_once, bgr
        if bgr:
            # Source: Simonyan and Zisserman's released networks: the mean of ImageNet's pixels.
            self.mean = tuple(value / 255 for value in (122.67891434, 116.66876762, 104.00698793))
            self.std = (1 / 255,) * 3
        channels = in_channels
        for stage, (convolutions, width) in enumerate(
            zip(VGG_COUNTS["vgg16"], widths, strict=True)
        ):
            for position in range(convolutions):
                padding = MARGIN if stage == position == 0 else 1
                convolution = nn.Conv2d(channels, width, 3, padding=padding)
                self.add_module(f"conv{stage + 1}_{position + 1}", convolution)
                channels = width
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.fc6 = nn.Conv2d(channels, hidden, 7)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.score_fr = nn.Conv2d(hidden, count, 1)
        inner = learned_deconvolutions != "none"
        last = learned_deconvolutions == "all"
        if stride == 32:
            self.upscore = BilinearDeconv2d(count, 32, learned=last)
        if stride == 8:
            self.score_pool3 = nn.Conv2d(widths[2], count, 1)
        if stride < 32:
            self.score_pool4 = nn.Conv2d(widths[3], count, 1)
            self.upscore2 = BilinearDeconv2d(count, 2, learned=inner)
        if stride == 16:
            self.upscore16 = BilinearDeconv2d(count, 16, learned=last)
        if stride == 8:
            self.upscore8 = BilinearDeconv2d(count, 8, learned=last)
            self.upscore_pool4 = BilinearDeconv2d(count, 2, learned=inner)
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if name.startswith("score"):
                    nn.init.zeros_(module.weight)
                else:
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes, H, W] of x [N, in_channels, H, W], one for each pixel."""
        image, pooled = self.pad(x), []
        y = image
        for stage, convolutions in enumerate(VGG_COUNTS["vgg16"], 1):
            for position in range(1, convolutions + 1):
                y = run(y, self.get_submodule(f"conv{stage}_{position}"), self.relu)
            y = self.pool(y)
            pooled.append(y)
        y = self.dropout(run(y, self.fc6, self.relu))
        y = self.dropout(run(y, self.fc7, self.relu))
        scores = self.score_fr(y)
        if self.stride == 32:
            return self._of_pixels(self.upscore(scores), image)
        scores = self._added(self.upscore2(scores), self.score_pool4, pooled[3], FROM_POOL4, 0.01)
        if self.stride == 16:
            return self._of_pixels(self.upscore16(scores), image)
        up = self.upscore_pool4(scores)
        scores = self._added(up, self.score_pool3, pooled[2], FROM_POOL3, 0.0001)
        return self._of_pixels(self.upscore8(scores), image)

    def _added(
        self, up: torch.Tensor, score: nn.Conv2d, pooled: torch.Tensor, first: int, factor: float
    ) -> torch.Tensor:
        """The upsampled scores and those of a pooled map, of the pixels that both have."""
        return up + _like(score(pooled * factor if self.at_once else pooled), first, up)

    def _of_pixels(self, scores: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        logits = _like(scores, AT_THE_END[self.stride], image)
        return in_format(logits, map_format(scores))


def _like(x: torch.Tensor, first: int, other: torch.Tensor) -> torch.Tensor:
    """Rows and columns of x from `first` on, as many as `other` has."""
    return crop(x, first, other.shape[2], other.shape[3])
