"""Distillation from a teacher whose logits stay at low resolution too."""

from __future__ import annotations

import torch
from torch import nn

from ...ops.upsample_class_sums import upsample_class_sums


class DistillationLoss(nn.Module):
    """Kullback-Leibler divergence of a student's softmax from a teacher's, per pixel.

    T^2 * sum over the classes of q (log q - log p), with p and q the softmax of the upsampled
    logits of student and teacher divided by the temperature T; the mean over the pixels. The same
    as F.kl_div(log p, q, reduction="sum") * T^2 / pixels of the upsampled logits, and neither
    of the two is built. (mmsegmentation's KLDivLoss passes p where F.kl_div expects log p.)

    Args:
        temperature: above 0.
        align_corners: as in F.interpolate.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015).
    """

    def __init__(self, temperature: float = 1.0, align_corners: bool = False) -> None:
        super().__init__()
        if not temperature > 0.0:
            raise ValueError(f"temperature is {temperature}, expected more than 0")
        self.temperature, self.align_corners = temperature, align_corners

    def forward(
        self,
        logits: torch.Tensor,
        teacher: torch.Tensor,
        size: tuple[int, int],
        pixel_weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The divergence, a float32 scalar (float64 for float64 logits).

        Args:
            logits: of the student [N, C, h, w].
            teacher: logits of the teacher [N, C, h', w']; has no gradient.
            size: (H, W) of the pixels.
            pixel_weight: weight of each pixel [N, H, W], or None: the mean is over these weights.
        """
        # Upsampling is linear: dividing before it is dividing after it.
        sums = upsample_class_sums(
            logits / self.temperature,
            teacher.detach() / self.temperature,
            ("loss", "negative_entropy", "count"),
            size=size,
            pixel_weight=pixel_weight,
            align_corners=self.align_corners,
        )
        divergence = (sums[:, 0] + sums[:, 1]).sum() / sums[:, 2, 0].sum()
        wide = torch.float64 if logits.dtype is torch.float64 else torch.float32
        return (divergence * self.temperature**2).to(wide)
