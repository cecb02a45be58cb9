"""What every segmentation model of fastseg offers, built on its low-resolution logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy
import torch
import torch.nn.functional as F

from .._checks import check_not_traced
from ..classes import ClassSet, label_classes
from ..layout import in_format
from ..nn.evaluation import in_eval_mode
from ..nn.fusion import is_fused
from ..nn.logits import with_background
from ..nn.losses import CombinedLoss, SumsLoss
from ..nn.target_watch import watch_targets
from ..ops.upsample_argmax import upsample_argmax
from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.upsample_cross_entropy import upsample_cross_entropy
from .pretrained import Pretrained

if TYPE_CHECKING:
    from ..crf import DenseCRF

Image = numpy.ndarray | torch.Tensor


class SegmentationModel(Pretrained):
    """A network from images to one logit per class and pixel.

    Subclasses define `coarse_logits`, and set what follows where their training differed.

    Attributes:
        classes: names and colours of the classes, one per channel of the logits.
        align_corners: how the logits were upsampled in training.
        mean, std: per band, of values scaled to 0..1; the input is (x - mean) / std. Those of RGB
            serve images of other bands too: a fourth band and more, or a single one, take their
            average.
        bgr: whether the network takes the bands of a photograph as blue, green, red.
        size_step, size_offset: the logits lie on the pixel grid without rest where each side of
            the input is a multiple of size_step plus size_offset (0 or 1).
        working_size: the longer side, in pixels, that `segment` brings images to: objects then
            have about the sizes they had in training.
        auxiliary_weight: share of the auxiliary head's loss in `loss`, for models that have one.
    """

    classes: ClassSet
    align_corners: bool = False
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    bgr: bool = False
    size_step: int = 1
    size_offset: int = 0
    working_size: int = 513
    auxiliary_weight: float = 0.4
    # segmentation_models_pytorch's, which its programs ask.
    requires_divisible_input_shape: bool = False
    _is_torch_scriptable: bool = False
    _is_torch_exportable: bool = True
    _is_torch_compilable: bool = True

    @property
    def in_channels(self) -> int:
        """Bands of the images that the network takes, as its first convolution has them."""
        for module in self.modules():
            if isinstance(module, torch.nn.Conv2d):
                return module.in_channels
        return 3

    @torch.no_grad()
    def label_classes(self) -> ClassSet:
        """The labels that the model gives, which are more than its classes where it has only one.

        Where a head with another number of outputs replaced the model's own, its labels are
        numbered. The outputs are counted in those of a small image, whose statistics no layer
        keeps.

        Returns:
            `fastseg.classes.label_classes(self.classes, outputs)`.
        """
        side = 2 * self.size_step + self.size_offset
        parameter = next(self.parameters())
        x = parameter.new_zeros(1, self.in_channels, max(side, 33), max(side, 33))
        outputs = in_eval_mode(self, lambda: self.coarse_logits(x)).shape[1]
        return label_classes(self.classes, outputs)

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Low-resolution logits [N, classes, h, w] of the input map x [N, 3, H, W].

        x is padded to `padded_size` first; upsampling the logits to that size and cropping to
        [H, W] gives the logits of every pixel.
        """
        raise NotImplementedError

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest size, not below (height, width), at which the logits fit the pixels."""
        step, offset = self.size_step, self.size_offset
        return (
            -(-(height - offset) // step) * step + offset,
            -(-(width - offset) // step) * step + offset,
        )

    def train(self, mode: bool = True) -> SegmentationModel:
        """Sets the mode of every module.

        Raises:
            ValueError: training mode of a model that comes from `fastseg.fuse`.
        """
        if mode and is_fused(self):
            raise ValueError(
                f"train is called on a fused {type(self).__name__}, which is for inference only: "
                "train the model that fastseg.fuse was given, and fuse it again"
            )
        super().train(mode)
        return self

    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script asks for before it compiles a module.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"a {type(self).__name__} cannot be compiled by torch.jit.script, which PyTorch has "
            "deprecated: use torch.export.export or torch.compile"
        )

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """x [N, 3, H, W] with its border repeated at the bottom and right, up to `padded_size`.

        Raises:
            ValueError: x is not a map of at least one pixel. TypeError: it is no tensor of numbers
                with a fraction.
        """
        check_not_traced(f"sizes inside a {type(self).__name__}")
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x is a {type(x).__name__}, expected a tensor [N, C, H, W]")
        if not x.is_floating_point():
            raise TypeError(
                f"x has dtype {x.dtype}, expected floating point, as preprocess(photographs) has it"
            )
        if x.dim() != 4 or x.shape[2] < 1 or x.shape[3] < 1:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected [N, C, H, W], H and W >= 1")
        height, width = self.padded_size(x.shape[2], x.shape[3])
        if (height, width) == (x.shape[2], x.shape[3]):
            return x
        return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode="replicate")

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of `forward`'s logits for an input of this size."""
        return height, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Full-resolution logits [N, classes, H, W] of the input map x [N, 3, H, W]."""
        return self._upsampled(self.coarse_logits(x), x)

    def _upsampled(self, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Coarse logits of the input x at the size of the output."""
        size = self.output_size(*self.padded_size(x.shape[2], x.shape[3]))
        height, width = self.output_size(x.shape[2], x.shape[3])
        if logits.shape[2:] != size:
            logits = upsample_bilinear(logits, size, align_corners=self.align_corners)
        return logits[:, :, :height, :width]

    @torch.inference_mode()
    def predict(self, x: torch.Tensor) -> Any:
        """`forward` without gradients, after switching the model to eval mode.

        The same as `predict` of segmentation_models_pytorch; for labels see `predict_labels`. The
        model stays in eval mode.

        Args:
            x: input map [N, 3, H, W], as `preprocess` makes it.

        Returns:
            What `forward` returns: floating, after the activation.
        """
        if self.training:
            self.eval()
        return self(x)

    @torch.no_grad()
    def predict_labels(self, x: torch.Tensor, crf: DenseCRF | None = None) -> torch.Tensor:
        """The most likely class of every pixel, without building the full-resolution logits.

        The same as model.eval()(x).argmax(1) of a model without activation. With a single class,
        the labels are 1 where its logit is positive (its probability above 0.5) and 0 elsewhere.
        The model is evaluated in eval mode, and then is in the mode that it was in.

        Args:
            x: input map [N, 3, H, W], as `preprocess` makes it.
            crf: refines the full-resolution logits with the `photographs` of x; for as many labels
                as `label_classes()` has. To train through it, call it on `forward`'s logits.

        Returns:
            Labels [N, H, W], uint8 up to 256 classes, else int32.

        Raises:
            ValueError: crf for a model whose output has another size than x.
        """
        # Labels have no memory format to keep, and convolutions are faster in this one.
        if x.dim() == 4:
            x = in_format(x, torch.channels_last)
        logits = with_background(in_eval_mode(self, lambda: self.coarse_logits(x)))
        size = self.output_size(*self.padded_size(x.shape[2], x.shape[3]))
        height, width = self.output_size(x.shape[2], x.shape[3])
        if crf is None:
            labels = upsample_argmax(logits, size, align_corners=self.align_corners)
            return labels[:, :height, :width]
        if (height, width) != (x.shape[2], x.shape[3]):
            raise ValueError(
                f"crf is given, but the logits have {height} x {width} pixels for an input of "
                f"{x.shape[2]} x {x.shape[3]}"
            )
        return crf.predict(self._upsampled(logits, x), self.photographs(x))

    def training_logits(
        self, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | list[torch.Tensor] | None]:
        """`coarse_logits` of x, and those of the auxiliary head or heads, if the model has some."""
        return self.coarse_logits(x), None

    def loss(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        *,
        weight: torch.Tensor | None = None,
        ignore_index: int = 255,
        label_smoothing: float = 0.0,
        criterion: CombinedLoss | SumsLoss | None = None,
    ) -> torch.Tensor:
        """Cross-entropy of the full-resolution logits, which are never built.

        The same as F.cross_entropy(model(x), target, ...) of a model without activation, plus
        `auxiliary_weight` times the same of the auxiliary head where the model has one. Of images
        that are padded (see `pad`) only the pixels of the target count. A single class is trained
        against "none of it": binary cross-entropy with the targets 0 and 1, two weights.

        Args:
            x: input map [N, 3, H, W].
            target: classes [N, H, W] (of the size of `forward`'s logits), int64, int32 or uint8.
            weight: of each class, [classes].
            ignore_index: target value of pixels that do not count.
            label_smoothing: in [0, 1]: share of each target spread evenly over all classes.
            criterion: a loss of fastseg.nn instead of the cross-entropy, such as
                CombinedLoss(ce=1, dice=1, ignore_index=255); weight and label_smoothing are its
                own then, and ignore_index must be. In mode "binary" it gets the single class's
                logits as they are.

        Returns:
            Scalar: the mean over the (weights of the) pixels that count.

        Raises:
            ValueError: shape of x or target, or targets out of range.

        Warns:
            UserWarning: all pixels that count are of one class and the others ignored, in the first
                target of this model.
        """
        if target.dim() != 3:
            raise ValueError(
                f"target has shape {tuple(target.shape)}, expected 3 dimensions [N, H, W]"
            )
        height, width = self.output_size(x.shape[2], x.shape[3])
        if (target.shape[1], target.shape[2]) != (height, width):
            raise ValueError(
                f"target has shape {tuple(target.shape)}, expected {height} x {width} pixels for "
                f"an input of {x.shape[2]} x {x.shape[3]}"
            )
        watch_targets(self, target, ignore_index)
        padded = self.output_size(*self.padded_size(x.shape[2], x.shape[3]))
        if padded != (height, width):
            if target.dtype is torch.uint8 and not 0 <= ignore_index <= 255:
                target = target.long()
            border = (0, padded[1] - width, 0, padded[0] - height)
            target = F.pad(target, border, value=ignore_index)
        main, auxiliary = self.training_logits(x)

        def loss_of(logits: torch.Tensor) -> torch.Tensor:
            if criterion is not None:
                given = logits if criterion.mode == "binary" else with_background(logits)
                return criterion(given, target, align_corners=self.align_corners)
            return upsample_cross_entropy(
                with_background(logits),
                target,
                weight,
                ignore_index,
                label_smoothing=label_smoothing,
                align_corners=self.align_corners,
            )

        loss = loss_of(main)
        if auxiliary is None:
            return loss
        others = auxiliary if isinstance(auxiliary, list) else [auxiliary]
        return loss + self.auxiliary_weight * sum(loss_of(logits) for logits in others)

    @torch.no_grad()
    def segment(
        self, image: Image, working_size: int | None = None, crf: DenseCRF | None = None
    ) -> torch.Tensor:
        """The class of every pixel of one image of any size.

        The image is resized, with antialiasing, so that its longer side is about `working_size`
        and the logits fit its pixels; the logits are upsampled straight to the size of the
        photograph. Nothing is padded or cropped.

        Args:
            image: uint8 [H, W, bands], RGB for three bands, as `fastseg.data.read_image` gives it.
            working_size: the longer side in pixels, at least 1; by default the model's own.
            crf: refines the logits with the image at its full size, its first three bands if it
                has more; for as many labels as `label_classes()` has.

        Returns:
            Labels [H, W], uint8 up to 256 classes, else int32, on the model's device.

        Raises:
            ValueError: shape of the image, or working_size below 1. TypeError: dtype of the image.
        """
        pixels = self._batch(image)
        if pixels.shape[0] != 1:
            raise ValueError(
                f"image has shape {tuple(pixels.shape)}, expected [H, W, {self.in_channels}]"
            )
        height, width = pixels.shape[1:3]
        size = self.input_size(height, width, working_size)
        if size != (height, width):
            # As bytes, on the CPU: the device never holds the photograph at full size.
            planes = pixels.cpu().permute(0, 3, 1, 2)
            planes = F.interpolate(planes, size, mode="bilinear", antialias=True)
            pixels = planes.permute(0, 2, 3, 1)
        x = self.preprocess(pixels)
        logits = with_background(in_eval_mode(self, lambda: self.coarse_logits(x)))
        if crf is None:
            return upsample_argmax(logits, (height, width), align_corners=self.align_corners)[0]
        logits = upsample_bilinear(logits, (height, width), align_corners=self.align_corners)
        photo = self._batch(image)[..., :3]
        if photo.shape[3] < 3:
            photo = photo[..., :1].expand(-1, -1, -1, 3)
        return crf.predict(logits, photo.to(logits.device).permute(0, 3, 1, 2))[0]

    def preprocess(self, images: Image) -> torch.Tensor:
        """The network's input from images: (x / 255 - mean) / std.

        Args:
            images: uint8 [N, H, W, bands] or [H, W, bands], RGB for three bands.

        Returns:
            Map [N, bands, H, W] in channels_last, in the dtype and on the device of the parameters.

        Raises:
            ValueError: shape of the images. TypeError: dtype of the images.
        """
        parameter = next(self.parameters())
        x = self._batch(images).to(parameter.device).float().permute(0, 3, 1, 2)
        bands = x.shape[1]
        mean = torch.tensor(of_bands("mean", self.mean, bands), device=x.device).view(1, -1, 1, 1)
        std = torch.tensor(of_bands("std", self.std, bands), device=x.device).view(1, -1, 1, 1)
        x = x / (255.0 * std) - mean / std
        if self.bgr:
            x = x.flip(1)
        return x.to(parameter.dtype).contiguous(memory_format=torch.channels_last)

    def photographs(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `preprocess`: RGB [N, 3, H, W] of 0..255, as dense CRFs take it.

        Of more than three bands the first three, of fewer the first three times.

        Args:
            x: input map [N, bands, H, W].
        """
        mean, std = (
            torch.tensor(of_bands(name, values, x.shape[1]), device=x.device, dtype=x.dtype)
            for name, values in (("mean", self.mean), ("std", self.std))
        )
        if self.bgr:
            x = x.flip(1)
        pixels = (x * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)) * 255
        if pixels.shape[1] < 3:
            return pixels[:, :1].expand(-1, 3, -1, -1)
        return pixels[:, :3]

    def _batch(self, images: Image) -> torch.Tensor:
        """Images [N, H, W, bands] or [H, W, bands] as a checked tensor [N, H, W, bands]."""
        if isinstance(images, numpy.ndarray) and not images.flags.writeable:
            images = images.copy()  # torch has no read-only tensors and warns
        x = torch.as_tensor(images)
        if x.dtype is not torch.uint8:
            raise TypeError(f"image has dtype {x.dtype}, expected uint8")
        bands = self.in_channels
        if x.dim() not in (3, 4) or x.shape[-1] != bands or 0 in x.shape[-3:]:
            kind = "RGB " if bands == 3 else ""
            raise ValueError(
                f"image has shape {tuple(x.shape)}, expected {kind}[H, W, {bands}] or a batch "
                f"[N, H, W, {bands}]"
            )
        return x if x.dim() == 4 else x[None]

    def input_size(
        self, height: int, width: int, working_size: int | None = None
    ) -> tuple[int, int]:
        """Height and width at which `segment` shows a photograph of this size to the network.

        Of the sizes at which the logits fit the pixels, the nearest to the one whose longer side is
        `working_size` (by default the model's own).
        """
        longer = self.working_size if working_size is None else working_size
        if longer < 1:
            raise ValueError(f"working_size is {longer}, expected at least 1")
        scale = longer / max(height, width)
        step, offset = self.size_step, self.size_offset
        sides = (round((side * scale - offset) / step) * step for side in (height, width))
        new_height, new_width = (max(side, step * (1 - offset)) + offset for side in sides)
        return new_height, new_width


def of_bands(name: str, values: Sequence[float], bands: int) -> list[float]:
    """A statistic per band, from one that is, or from that of RGB.

    Raises:
        ValueError: `values`, which the message calls `name`, has another number of bands.
    """
    if len(values) == bands:
        return list(values)
    if len(values) != 3:
        raise ValueError(f"{name} has {len(values)} values, the image {bands} bands")
    average = sum(values) / 3
    return [average] if bands == 1 else [*values[:bands], *[average] * (bands - 3)]
