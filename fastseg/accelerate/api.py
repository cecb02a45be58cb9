"""accelerate, restore and predict_labels."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch import nn

from .._checks import check_module
from ..nn.altered import all_are_watched, has_hooks, original_class
from ..nn.evaluation import in_eval_mode
from ..nn.logits import with_background
from ..ops.upsample_argmax import upsample_argmax
from .flops import Counter
from .known import LIBRARIES, candidates, model_for, queries_for
from .loss import Loss, logits_of
from .model import Model
from .report import Report, Row
from .swap import (
    Swap,
    reason_against,
    swap_in,
    swap_of,
    swap_out,
)
from .switch import low_resolution as is_low_resolution
from .switch import set_low_resolution

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
    """Replaces, in place, the parts of a third-party model that fastseg runs faster.

    It replaces modules of:

    - torchvision: FCN, DeepLabV3 and LR-ASPP
    - segmentation_models_pytorch: every model and ResNet encoder, and the decoders of Unet, PSPNet,
      DeepLabV3, DeepLabV3Plus, UPerNet, Segformer and FPN
    - transformers: SegFormer, UPerNet, and the deformable attention of Mask2Former
    - any model: dilated depthwise convolutions

    Outputs and gradients are the same up to rounding: in training and in eval mode, under autocast,
    torch.compile and torch.export. The modules stay the same objects: parameters, buffers, the
    state_dict, hooks, optimizers and wrappers notice nothing. `restore` undoes it, and a second
    call changes nothing.

    Modules that are unknown or modified (hooks inside, parametrizations, adapters, quantisation,
    sharding, exchanged layers) keep their own forward, even if modified afterwards. So does every
    module under torch.jit.script, torch.jit.trace, torch.fx and torch.func.

    Without gradients on a CPU, maps inside are in channels_last; the logits have the memory format
    of the images. On that path ReLU maps NaN to 0.

    Pickles of an accelerated model need fastseg to be read: `restore` it before pickling it for
    others.

    Args:
        model: in any mode, before or after DistributedDataParallel, DataParallel and torch.compile,
            but before FullyShardedDataParallel and fully_shard.
        low_resolution: whether the model's forward gives logits at the network's own resolution,
            for `loss_fn` of the report, instead of at the size of the images. SegFormer of
            transformers does so in any case, and models of transformers that are given labels
            compute their loss without full-resolution logits either way.
        image_size: height and width, in pixels, of the image for which the report counts FLOPs, on
            a copy of the model without memory; None: they are not counted.

    Returns:
        A report to print: what was replaced, what was not, and why. Its
        `loss_fn(model(images), target)` is F.cross_entropy of the full-resolution logits,
        without making them.

    Raises:
        ValueError: low_resolution is set for a model that has no such logits.
        TypeError: model is not a module.
    """
    check_module(model)
    root = layers_of(model)[-1]
    known = model_for(root)
    if low_resolution:
        _check_logits(root, known)
    found = list(_found(root))
    for _, module, swap, why in found:
        if why is None and swap_of(module) is None:
            swap_in(module, swap)
    if known is not None and (switch := known.switch(root)) is not None:
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
    loss = Loss() if known is None else known.loss(root)
    return Report(rows, loss, total, (*notes, *_remarks(root)))


def restore(model: nn.Module) -> nn.Module:
    """Undoes `accelerate`, in place; a model that was not accelerated stays as it is.

    Args:
        model: what `accelerate` was given.

    Returns:
        The model itself.

    Raises:
        TypeError: model is not a module.
    """
    check_module(model)
    for module in model.modules():
        swap_out(module)
        set_low_resolution(module, False)
    return model


@overload
def predict_labels(model: nn.Module, images: torch.Tensor) -> torch.Tensor: ...


@overload
def predict_labels(
    model: nn.Module, images: torch.Tensor, target_sizes: Sequence[tuple[int, int]]
) -> list[torch.Tensor]: ...


@torch.no_grad()
def predict_labels(
    model: nn.Module,
    images: torch.Tensor,
    target_sizes: Sequence[tuple[int, int]] | None = None,
) -> torch.Tensor | list[torch.Tensor]:
    """The most likely class of every pixel, without making full-resolution logits.

    The same as the argmax of the model's logits at the size of its output, or of the images for
    SegFormer of transformers. With a single class, the labels are 1 where its logit is positive and
    0 elsewhere. The model need not be accelerated. It runs in eval mode; its own mode is restored
    afterwards.

    The forward of an unknown model is called, and its logits are resized to the images. A known
    model with a modified head is called as well, and its output keeps its size.

    MaskFormer and Mask2Former of transformers have masks of queries: these are resized to the
    images before their sigmoid, as in the original code, and no score is made at that size.

    With `target_sizes`, labels are those of the image processor's
    post_process_semantic_segmentation in transformers: what the model returns, resized to each
    size.

    Args:
        model: one of ours, one of torchvision, smp or transformers, or any that returns logits
            [N, C, h, w].
        images: the model's input [N, C, H, W].
        target_sizes: height and width, in pixels, of the labels of each image; None for the size
            of the output.

    Returns:
        Labels [N, H, W], uint8 up to 256 classes, else int32; with `target_sizes` a list of N maps.

    Raises:
        TypeError: the model returns no logits.
        ValueError: a modified head gives a single class, and nothing tells its threshold; as many
            target sizes as images are needed.
    """
    sizes = target_size_pairs(images, target_sizes)
    root = layers_of(model)[-1]
    if (queries := queries_for(root)) is not None:
        return in_eval_mode(model, lambda: queries.labels(model, images, sizes))
    if sizes is None:
        return in_eval_mode(model, lambda: _labels(model, images))
    return in_eval_mode(model, lambda: _labels_of_sizes(model, images, sizes))


def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The deprecated name of `predict_labels`.

    Args:
        model, images: as for `predict_labels`.

    Returns:
        Labels [N, H, W], as `predict_labels`.
    """
    warnings.warn(
        "fastseg.predict is fastseg.predict_labels now: predict means another thing in "
        "segmentation_models_pytorch",
        DeprecationWarning,
        stacklevel=2,
    )
    return predict_labels(model, images)


def _labels(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    layers = layers_of(model)
    root = layers[-1]
    if callable(getattr(root, "coarse_logits", None)):  # fastseg's own
        return root.predict_labels(images)
    known = model_for(root)
    align_corners = known is not None and known.loss(root).align_corners
    if known is None:
        logits, size = logits_of(model(images)), (images.shape[2], images.shape[3])
    elif (why := _no_labels(known, layers)) is None:
        logits = known.coarse(root, images)
        size = known.size(root, images, logits)
    else:
        logits = logits_of(model(images))
        size = _size_called(known, root, images, logits)
        if logits.shape[1] == 1:
            threshold = known.threshold(root)
            if threshold is None:
                raise ValueError(f"no threshold is known for one class: {why}")
            logits = logits - threshold
    return upsample_argmax(with_background(logits), size, align_corners=align_corners)


def target_size_pairs(
    images: torch.Tensor, target_sizes: Sequence[tuple[int, int]] | None
) -> list[tuple[int, int]] | None:
    """The public argument `target_sizes`, a pair of numbers for each image, or None."""
    if target_sizes is None:
        return None
    pairs = [(int(height), int(width)) for height, width in target_sizes]
    if len(pairs) != images.shape[0]:
        raise ValueError(
            f"target_sizes has {len(pairs)} sizes, expected {images.shape[0]}, one for each image"
        )
    return pairs


def _labels_of_sizes(
    model: nn.Module, images: torch.Tensor, sizes: list[tuple[int, int]]
) -> list[torch.Tensor]:
    """Labels of what the model returns, resized to each size."""
    root = layers_of(model)[-1]
    known = model_for(root)
    logits = logits_of(model(images))
    if logits.shape[1] == 1 and known is not None:
        threshold = known.threshold(root)
        if threshold is None:
            raise ValueError("no threshold is known for one class")
        logits = logits - threshold
    logits = with_background(logits)
    return [upsample_argmax(logits[i : i + 1], size)[0] for i, size in enumerate(sizes)]


def _no_labels(known: Model, layers: list[Any]) -> str | None:
    """Why the labels need the forward of the model or of its wrapper, or None."""
    if all_are_watched() or any(has_hooks(layer) for layer in layers):
        return "it has hooks"
    if "forward" in vars(layers[-1]):
        return "its forward is overridden"
    try:
        return known.no_labels(layers[-1])
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        return f"its head is not built as expected ({error})"


def _size_called(
    known: Model, root: Any, images: torch.Tensor, logits: torch.Tensor
) -> tuple[int, int]:
    """The size of the labels from what the model returned when it was called."""
    switch = known.switch(root)
    if switch is None:
        return images.shape[2], images.shape[3]
    if is_low_resolution(switch) and known.no_logits(root) is None:
        return known.size(root, images, logits)
    return logits.shape[2], logits.shape[3]


def _found(root: nn.Module) -> Iterator[tuple[str, nn.Module, Swap, str | None]]:
    """Modules of known kinds: path, module, kind, and why it is left alone."""
    covered: set[int] = set()
    for path, module, swap in candidates(root):
        if id(module) in covered:
            continue
        why = reason_against(swap, module)
        yield path, module, swap, why
        if why is None:
            covered.update(id(part) for part in swap.covers(module))


def layers_of(model: Any) -> list[Any]:
    """DDP, DataParallel and torch.compile's module around a model, and the model itself."""
    layers = [model]
    while (inner := _WRAPPERS.get(type(model).__name__)) is not None:
        if not type(model).__module__.startswith("torch."):
            break
        model = getattr(model, inner)
        layers.append(model)
    return layers


def _check_logits(root: Any, known: Model | None) -> None:
    if known is None:
        raise ValueError(
            f"low_resolution: the model is a {type(root).__name__}, whose logits are not known"
        )
    if reason := known.no_logits(root):
        raise ValueError(f"low_resolution: the model has no logits to give: {reason}")


def _counted(
    root: nn.Module, image_size: tuple[int, int] | None
) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """FLOPs of the modules before and after, and a note about them."""
    if image_size is None or not any(swap_of(m) for m in root.modules()):
        return {}, {}, []
    try:
        counter = Counter(root, image_size)
        before = counter.count(accelerated=False)
        after = counter.count(accelerated=True)
    except Exception as error:  # any error of the model on this image or on a copy
        reason = str(error).strip().splitlines() or [""]
        note = f"FLOPs are not counted: {type(error).__name__}: {reason[0][:200]}"
        return {}, {}, [note]
    height, width = image_size
    return before, after, [f"FLOPs of convolutions and matrix products, one {height}x{width} image"]


def _remarks(root: nn.Module) -> Iterator[str]:
    """Further lines of the report."""
    if any(_is_sharded(module) for module in root.modules()):
        yield "sharded modules are left alone: accelerate a model before FSDP wraps it"
    used = {original_class(m).__module__.partition(".")[0] for m in root.modules()}
    for library in LIBRARIES:
        version = getattr(sys.modules.get(library.name), "__version__", library.tested)
        if library.name in used and not f"{version}.".startswith(f"{library.tested}."):
            yield f"{library.name} is {version}; fastseg is tested with {library.tested}"


def _is_sharded(module: nn.Module) -> bool:
    names = {base.__name__ for base in type(module).__mro__}
    return not names.isdisjoint({"FSDPModule", "FullyShardedDataParallel"})
