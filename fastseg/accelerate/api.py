"""accelerate, restore and predict."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .._checks import check_module
from ..nn.altered import original_class
from ..nn.chain import inner_sequences
from ..nn.logits import with_background
from ..ops.upsample_argmax import upsample_argmax
from .families import family_of
from .flops import Counter
from .layers import DEPTHWISE, SEQUENCE, UPSAMPLE
from .loss import Loss, logits_of
from .report import Report, Row
from .swap import SWAPS, Swap, reason_against, register, swap_in, swap_of, swap_out
from .switch import set_low_resolution

register(DEPTHWISE, SEQUENCE, UPSAMPLE)

# Inside these, and inside what is made of them, modules are exchanged; elsewhere only DEPTHWISE.
_KNOWN = (
    "torchvision.models.segmentation.",
    "segmentation_models_pytorch.",
    "transformers.models.segformer.",
    "transformers.models.upernet.",
)
# What the exchanged forwards are tested with.
_VERSIONS = {
    "torchvision": "0.28",
    "segmentation_models_pytorch": "0.6",
    "transformers": "5.24",
}
_WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


def accelerate(
    model: nn.Module,
    *,
    low_resolution: bool = False,
    image_size: tuple[int, int] | None = (512, 512),
) -> Report:
    """Lets fastseg compute what it computes faster in somebody else's model, in place.

    Known are torchvision's FCN, DeepLabV3 and LR-ASPP; smp's models and ResNet encoders, and its
    heads of Unet, PSPNet, DeepLabV3, DeepLabV3Plus, UPerNet, Segformer and FPN; transformers'
    SegFormer and UPerNet; and dilated depthwise convolutions anywhere. The modules stay the same
    objects: parameters, buffers, state_dict, hooks, optimizers and wrappers notice nothing. Outputs
    and gradients are the same up to rounding, in training and in eval mode, under autocast,
    torch.compile and torch.export. What fastseg does not know, or finds altered (hooks inside,
    parametrizations, adapters, quantisation, sharding), runs as it always did, also where that is
    done later. Calling it again changes nothing. `restore` takes everything back.

    On a CPU, what runs without gradients computes in channels_last inside; the logits come in the
    memory format of the images. There a ReLU of NaN is 0.

    Before a whole model is pickled for somebody without fastseg, or scripted, `restore` it.

    Args:
        model: in any mode, before or after DistributedDataParallel, DataParallel and torch.compile
            (before FullyShardedDataParallel and fully_shard).
        low_resolution: the model's forward gives logits at the network's own resolution, for
            `loss_fn` of the report, instead of at the images' size. SegFormer of transformers
            does so anyway; models of transformers given labels compute their loss without
            full-resolution logits in any case.
        image_size: height and width of the image for which the report counts FLOPs, on a copy of
            the model without memory; None: they are not counted.

    Returns:
        What is exchanged and what not, and why; print it. Its `loss_fn(model(images), target)` is
        the model's cross-entropy: F.cross_entropy of full-resolution logits without making them.

    Raises:
        ValueError: low_resolution of a model that has no such logits.
        TypeError: model is no module.
    """
    check_module(model)
    root = _unwrapped(model)
    family = family_of(root)
    if low_resolution:
        _check_logits(root)
    found = list(_found(root))
    new = [(path, swap) for path, module, swap, why in found if not why and not swap_of(module)]
    for path, swap in new:
        swap_in(root.get_submodule(path), swap)
    if family is not None and (switch := family.switch(root)) is not None:
        set_low_resolution(switch, low_resolution)
    before, after, notes = _counted(root, image_size)
    rows = tuple(
        Row(
            path,
            original_class(module).__name__,
            "" if why else swap.what,
            why or "",
            before.get(path, 0 if before else None),
            after.get(path, 0 if after else None),
        )
        for path, module, swap, why in found
    )
    total = (before[""], after[""]) if before else None
    loss = Loss() if family is None else family.loss(root)
    return Report(rows, loss, total, (*notes, *_remarks(root)))


def restore(model: nn.Module) -> nn.Module:
    """Takes back what `accelerate` did; a model that was not accelerated stays as it is.

    Returns:
        The model.

    Raises:
        TypeError: model is no module.
    """
    check_module(model)
    for module in model.modules():
        swap_out(module)
        set_low_resolution(module, False)
    return model


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The most likely class of every pixel, without making full-resolution logits.

    The same as the argmax of the model's logits at the size of its output: of the images, for
    SegFormer of transformers too. With a single class, the labels are 1 where its logit is positive
    and 0 elsewhere. The model need not be accelerated; one that is not known is called, and its
    logits are resized to the images. It stays in the mode it is in: call eval() first.

    Args:
        images: the model's input [N, C, H, W].

    Returns:
        Labels [N, H, W], uint8 up to 256 classes, else int32.

    Raises:
        TypeError: the model returns no logits.
    """
    root: Any = _unwrapped(model)
    if callable(getattr(root, "coarse_logits", None)):  # fastseg's own
        return root.predict(images)
    family = family_of(root)
    if family is not None and family.no_labels(root) is None:
        logits = family.coarse(root, images)
        size = family.size(root, images, logits)
    else:
        logits, size = logits_of(model(images)), (images.shape[2], images.shape[3])
        if family is not None and logits.shape[1] == 1:
            raise ValueError(f"no threshold is known for one class: {family.no_labels(root)}")
    align_corners = family is not None and family.loss(root).align_corners
    return upsample_argmax(with_background(logits), size, align_corners=align_corners)


def _found(root: nn.Module) -> Iterator[tuple[str, nn.Module, Swap, str | None]]:
    """Modules of known kinds: path, module, kind, and why it is left alone."""
    known: list[str] = []
    covered: set[int] = set()
    for path, module in root.named_modules():
        if original_class(module).__module__.startswith(_KNOWN):
            known.append(path)
        if id(module) in covered:
            continue
        swap = swap_of(module) or next((s for s in SWAPS.values() if s.matches(module)), None)
        inside = any(path == k or k == "" or path.startswith(f"{k}.") for k in known)
        if swap is None or not (inside or swap is DEPTHWISE):
            continue
        why = reason_against(swap, module)
        yield path, module, swap, why
        if why is None:
            covered.update(id(part) for part in swap.skips(module))
            if swap is SEQUENCE:
                covered.update(id(part) for part in inner_sequences(module))


def _unwrapped(model: Any) -> Any:
    """The model inside DDP, DataParallel and torch.compile."""
    while True:
        inner = _WRAPPERS.get(type(model).__name__)
        if inner is None or not type(model).__module__.startswith("torch."):
            return model
        model = getattr(model, inner)


def _check_logits(root: Any) -> None:
    family = family_of(root)
    if family is None:
        raise ValueError(
            f"low_resolution: the model is a {type(root).__name__}, whose logits are not known"
        )
    if reason := family.no_logits(root):
        raise ValueError(f"low_resolution: the model has no logits to give: {reason}")


def _counted(
    root: nn.Module, image_size: tuple[int, int] | None
) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """FLOPs of the modules before and after, and what is to be said of it."""
    if image_size is None or not any(swap_of(m) for m in root.modules()):
        return {}, {}, []
    try:
        counter = Counter(root, image_size)
        before = counter.count(accelerated=False)
        after = counter.count(accelerated=True)
    except Exception as error:  # whatever a model does not like about the image or the copy
        reason = str(error).strip().splitlines() or [""]
        note = f"FLOPs are not counted: {type(error).__name__}: {reason[0][:200]}"
        return {}, {}, [note]
    height, width = image_size
    return before, after, [f"FLOPs of convolutions and matrix products, one {height}x{width} image"]


def _remarks(root: nn.Module) -> Iterator[str]:
    """What a user should know besides."""
    if any(_is_sharded(module) for module in root.modules()):
        yield "sharded modules are left alone: accelerate a model before FSDP wraps it"
    libraries = {original_class(m).__module__.partition(".")[0] for m in root.modules()}
    for name, tested in _VERSIONS.items():
        version = getattr(sys.modules.get(name), "__version__", tested)
        if name in libraries and not f"{version}.".startswith(f"{tested}."):
            yield f"{name} is {version}; fastseg is tested with {tested}"


def _is_sharded(module: nn.Module) -> bool:
    names = {base.__name__ for base in type(module).__mro__}
    return not names.isdisjoint({"FSDPModule", "FullyShardedDataParallel"})
