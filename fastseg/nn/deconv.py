"""Transposed convolutions whose kernel is bilinear, computed as the upsampling that they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .._private_torch import is_transformed
from ..ops.upsample_bilinear import upsample_bilinear
from .altered import readable


def bilinear_kernel(scale: int) -> torch.Tensor:
    """The kernel [k, k] with which a transposed convolution of stride `scale` is bilinear.

    Args:
        scale: output pixels per input pixel, at least 2.

    Returns:
        The kernel in float64; k is 2 * scale, or 2 * scale - 1 for an odd scale.

    Raises:
        ValueError: scale below 2.

    Source: Long et al., Fully Convolutional Networks, 2015, section 3.3.
    """
    if scale < 2:
        raise ValueError(f"scale is {scale}, expected at least 2")
    size = 2 * scale - scale % 2
    distances = torch.arange(size, dtype=torch.float64, device="cpu") - (size - 1) / 2
    line = 1 - distances.abs() / scale
    return line[:, None] * line


@readable
class BilinearDeconv2d(nn.ConvTranspose2d):
    """Transposed convolution without bias that begins as bilinear upsampling of each channel.

    The same parameters, names and values as nn.ConvTranspose2d(channels, channels, k, scale,
    groups=groups, bias=False) with k as in `bilinear_kernel`. As long as its weight is that kernel
    on the diagonal and 0 elsewhere, which is looked at in every call, the result is that of
    `upsample_bilinear` on the map with a ring of zeros around it: of the multiplications with a
    zero none is done: infinite values and NaN stay in their own channel. Where the weight was
    trained, or gets a gradient, the convolution is run.

    Args:
        channels: of the input and of the output.
        scale: stride, at least 2.
        groups: 1, or `channels` for a kernel per channel.
        learned: whether the weight is a parameter; a buffer otherwise, as in the last layer of the
            FCN paper.

    Raises:
        ValueError: an argument out of range.

    Source: Long et al., Fully Convolutional Networks, 2015, section 3.3.
    """

    def __init__(self, channels: int, scale: int, groups: int = 1, learned: bool = True) -> None:
        if channels < 1 or groups not in (1, channels):
            raise ValueError(
                f"channels is {channels} and groups is {groups}, expected at least one channel and "
                "1 group or as many as channels"
            )
        kernel = bilinear_kernel(scale)
        super().__init__(channels, channels, kernel.shape[0], scale, groups=groups, bias=False)
        if not learned:
            weight = self.weight.detach()
            del self.weight
            self.register_buffer("weight", weight)

    def reset_parameters(self) -> None:
        """Sets the weight to the bilinear kernel."""
        with torch.no_grad():
            self.weight.zero_()
            self._diagonal(self.weight).copy_(bilinear_kernel(self.scale).to(self.weight.dtype))

    @property
    def scale(self) -> int:
        """The stride."""
        return int(self.stride[0])

    def is_bilinear(self) -> bool:
        """Whether the weight is the bilinear kernel, to the rounding of its dtype."""
        weight = self.weight
        if weight.is_meta:
            return False
        diagonal = self._diagonal(weight.detach())
        kernel = bilinear_kernel(self.scale).to(weight.device)
        near = (diagonal.to(torch.float64) - kernel).abs() <= 2 * torch.finfo(weight.dtype).eps
        if not bool(near.all()):
            return False
        return self.groups > 1 or int(weight.count_nonzero()) == int(diagonal.count_nonzero())

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Map [N, C, h, w] -> map [N, C, (h - 1) * scale + k, (w - 1) * scale + k]."""
        if output_size is not None or not self._upsamples(input):
            return super().forward(input, output_size)
        return upsample_with_ring(input, self.scale)

    def _upsamples(self, x: torch.Tensor) -> bool:
        # Neither a graph nor vmap, which may have many weights here, looks at values.
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed():
            return False
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return False
        weight = self.weight
        plain = (
            type(weight) in (nn.Parameter, torch.Tensor)
            and not (weight.requires_grad and torch.is_grad_enabled())
            and self.bias is None
            and x.dim() == 4
            and x.shape[1] == self.in_channels
            and (x.dtype is weight.dtype or torch.is_autocast_enabled(x.device.type))
            and (self.padding, self.output_padding, self.dilation) == ((0, 0), (0, 0), (1, 1))
        )
        return plain and self.is_bilinear()

    def _diagonal(self, weight: torch.Tensor) -> torch.Tensor:
        """The kernels [C, k, k] from each channel to itself, a view."""
        if self.groups > 1:
            return weight[:, 0]
        return weight.diagonal(dim1=0, dim2=1).permute(2, 0, 1)


def upsample_with_ring(x: torch.Tensor, scale: int) -> torch.Tensor:
    """The transposed convolution of x with the bilinear kernel, as an upsampling.

    Beyond its border a transposed convolution adds nothing, so that the values fade to 0 there: as
    between the map and a ring of zeros around it.

    Args:
        x: map [N, C, h, w].
        scale: stride of the convolution.

    Returns:
        Map [N, C, (h + 1) * scale - scale % 2, ...]; without gradients a view of a larger one.
    """
    ringed = F.pad(x, (1, 1, 1, 1))
    size = (ringed.shape[2] * scale, ringed.shape[3] * scale)
    up = upsample_bilinear(ringed, size)
    first = (scale + 1) // 2
    height, width = ((side + 1) * scale - scale % 2 for side in x.shape[2:])
    return crop(up, first, height, width)


def crop(x: torch.Tensor, first: int, height: int, width: int) -> torch.Tensor:
    """So many rows and columns of x from `first` on; a view where no gradient flows.

    The gradient to a slice would lose the memory format.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return x[:, :, first : first + height, first : first + width]
    right, bottom = x.shape[3] - first - width, x.shape[2] - first - height
    return F.pad(x, (-first, -right, -first, -bottom))
