"""Folders that hold a model: config.json with its arguments, model.safetensors with its weights."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._files import written_whole
from ..classes import ClassSet, numbered_classes
from ..nn.fusion import is_fused
from .files import fill, read_tensors, unwrap

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
# What a model can have beside its constructor's arguments, kept where it is not the class's own.
_PREPROCESSING = ("mean", "std", "working_size")


class Pretrained(nn.Module):
    """A model that is saved to a folder, and made from a folder or from the Hugging Face hub.

    The folder is that of segmentation_models_pytorch: config.json holds the constructor's arguments
    and "_model_class". We read smp's folders of the models we have; smp reads ours of the arguments
    it has, where the encoder is whole.
    """

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Remembers the constructor's arguments, for config.json."""
        model = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind_partial(model, *args, **kwargs)
        except TypeError:  # of which __init__ will say more
            return model
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        arguments.pop(next(iter(signature.parameters)))
        model.__dict__["_arguments"] = arguments
        return model

    def config(self) -> dict[str, Any]:
        """What config.json holds: the constructor's arguments and how images are prepared.

        Raises:
            ValueError: an argument is no plain value.
        """
        config = {name: _plain(name, value) for name, value in self._arguments.items()}
        if "encoder_weights" in config:
            config["encoder_weights"] = None
        classes = getattr(self, "classes", None)
        if isinstance(classes, ClassSet):
            config["classes"] = len(classes)
            if classes != numbered_classes(len(classes)):
                config["_classes"] = dataclasses.asdict(classes)
        for name in _PREPROCESSING:
            if getattr(self, name) != getattr(type(self), name):
                config[f"_{name}"] = _plain(name, getattr(self, name))
        return {"_model_class": type(self).__name__, **config}

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes config.json and model.safetensors, each whole or not at all.

        Args:
            folder: made if it is not there.

        Raises:
            ValueError: safetensors is not installed, an argument of the model is no plain value, or
                the model comes from `fastseg.fuse`.
        """
        if is_fused(self):
            raise ValueError(
                f"this {type(self).__name__} is fused, and a folder holds models that are not: "
                "save the model that fastseg.fuse was given"
            )
        save = _safetensors().save
        content = json.dumps(self.config(), indent=2) + "\n"
        weights = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        # The weights last: a folder that has them is complete.
        for name, data in ((CONFIG, content.encode()), (WEIGHTS, save(weights))):
            with written_whole(Path(folder) / name) as file:
                file.write(data)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], *, revision: str | None = None) -> Any:
        """The model in a folder, or in a repository of the Hugging Face hub.

        Called on a model's class it accepts that class only, on SegmentationModel any.

        Args:
            source: folder that holds config.json and model.safetensors, or "owner/name" of a
                repository, which is downloaded (and kept by huggingface_hub).
            revision: branch, tag or commit of the repository.

        Returns:
            The model in eval mode, float32, on the CPU.

        Raises:
            ValueError: it cannot be had, is damaged, or of another class.
        """
        folder = Path(source)
        if not folder.is_dir():
            folder = _download(str(source), revision)
        config = _read_config(folder / CONFIG)
        name = config.pop("_model_class", None)
        allowed = {c.__name__: c for c in _subclasses(cls)}
        if name not in allowed:
            raise ValueError(
                f"{folder / CONFIG}: _model_class is {name!r}, allowed are {', '.join(allowed)}"
            )
        extras = {k: config.pop(k) for k in list(config) if k.startswith("_")}
        if "encoder_weights" in config:
            config["encoder_weights"] = None
        if "_classes" in extras:
            config["classes"] = _class_set(extras["_classes"])
        try:
            with torch.device("meta"):
                model = allowed[name](**config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG}: fits no {name} ({error})") from error
        for attribute in _PREPROCESSING:
            if f"_{attribute}" in extras:
                setattr(model, attribute, extras[f"_{attribute}"])
        path = folder / WEIGHTS
        if not path.is_file():
            raise ValueError(f"{path}: is not there")
        return fill(str(path), name, model, unwrap(str(path), read_tensors(path)))


def _plain(name: str, value: Any) -> Any:
    """`value` as JSON has it."""
    if isinstance(value, ClassSet):
        return len(value)
    if isinstance(value, dict):
        return {str(k): _plain(f"{name}[{k!r}]", v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"{name} is {value!r}: only numbers, names, lists and dicts can be written to {CONFIG}"
    )


def _class_set(fields: dict[str, Any]) -> ClassSet:
    def color_list(colors: list[list[int]]) -> tuple[tuple[int, int, int], ...]:
        return tuple((r, g, b) for r, g, b in colors)

    return ClassSet(
        tuple(fields["names"]),
        color_list(fields["colors"]),
        color_list(fields["overlay_colors"]),
        fields["background"],
    )


def _subclasses(cls: type[Pretrained]) -> list[type[Any]]:
    """cls and what is derived from it, without the abstract ones."""
    found: list[type[Any]] = [] if cls.__subclasses__() else [cls]
    for subclass in cls.__subclasses__():
        found += _subclasses(subclass)
    return found


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: is not there") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: truncated or damaged ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: holds no object")
    return config


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ValueError(
            f"{WEIGHTS} needs the package safetensors: pip install safetensors"
        ) from error
    return safetensors.torch


def _download(repository: str, revision: str | None) -> Path:
    """The local folder of a repository of the hub."""
    hint = "give a folder that holds config.json and model.safetensors"
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{repository}: is no folder, and the Hugging Face hub needs the package "
            f'huggingface_hub (pip install "fastseg-kernels[hub]"); or {hint}'
        ) from error
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS])
        )
    except Exception as error:  # the hub's client raises errors of several packages
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{repository}: is no folder, and cannot be had from the Hugging Face hub "
            f"({type(error).__name__}: {reason[0] if reason else ''}); {hint}"
        ) from error
