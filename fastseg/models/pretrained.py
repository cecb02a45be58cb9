"""Folders that hold a model: config.json with its arguments, model.safetensors with its weights."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .._files import written_whole
from .._json import checked, read_json
from .._schema import PLAIN, Array, Integer, Number, Record, Schema, shown
from ..classes import ClassSet, numbered_classes
from ..limits import limits
from ..nn.fusion import is_fused
from .constructor import build
from .files import StateDict, fill, read_tensors, unwrap
from .hub import CARD, card, upload
from .stored_classes import StoredClasses, stored

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PROCESSOR = "preprocessor_config.json"  # of transformers
# Attributes that are saved beside the constructor's arguments where they differ from the class's.
_PREPROCESSING: dict[str, Schema] = {
    "mean": Array(Number(-1e6, 1e6), 1, 4096),
    "std": Array(Number(above=1e-9, high=1e6), 1, 4096),
    "working_size": Integer(1, 1 << 20),
}


class Pretrained(nn.Module):
    """A model that is saved to a folder, and made from a folder or from the Hugging Face hub.

    The folder is that of segmentation_models_pytorch: config.json holds the constructor's arguments
    and "_model_class". We read smp's folders of the models we have; smp reads ours of the arguments
    it has, where the encoder is whole. Folders of transformers are read too, and written on demand.
    """

    # The name in config.json where it is not the class's own: what smp calls the model.
    smp_name: str | None = None
    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Remembers the constructor's arguments, for config.json."""
        model = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind_partial(model, *args, **kwargs)
        except TypeError:  # __init__ raises the clearer error
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
                config["_classes"] = stored(classes)
        for name in _PREPROCESSING:
            if getattr(self, name) != getattr(type(self), name):
                config[f"_{name}"] = _plain(name, getattr(self, name))
        return {"_model_class": type(self).smp_name or type(self).__name__, **config}

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        dataset: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        library: str = "fastseg",
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **upload_options: Any,
    ) -> str | None:
        """Writes config.json and model.safetensors, each whole or not at all.

        Args:
            save_directory: folder, made if it is not there.
            dataset: name of the data that the model was trained on; with it or with metrics a
                README.md, the model's card, is written too.
            metrics: name -> value, for the card.
            library: that reads the folder: "fastseg", whose folders smp reads too, or
                "transformers", which has some of our models.
            push_to_hub: uploads the folder to the Hugging Face hub.
            repo_id: "owner/name" of the repository; by default the folder's name.
            upload_options: private, token, revision and message of `fastseg.models.hub.upload`.

        Returns:
            URL of the commit where the folder is uploaded.

        Raises:
            ValueError: safetensors is not installed, an argument of the model is no plain value,
                the model comes from `fastseg.fuse`, or the library has no such model.
        """
        if library not in ("fastseg", "transformers"):
            raise ValueError(f"library is {library!r}, allowed are 'fastseg' and 'transformers'")
        if is_fused(self):
            raise ValueError(
                f"this {type(self).__name__} is fused, and a folder holds models that are not: "
                "save the model that fastseg.fuse was given"
            )
        save = _safetensors().save
        if library == "transformers":
            from . import transformers_folder

            files, tensors = transformers_folder.files(self), transformers_folder.tensors(self)
        else:
            files = {CONFIG: (json.dumps(self.config(), indent=2) + "\n").encode()}
            tensors = self.state_dict()
        weights = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        # The weights last: a folder that has them is complete.
        files[WEIGHTS] = save(weights, {"format": "pt"})
        if dataset is not None or metrics is not None:
            text = card(type(self).__name__, self.config(), dataset, metrics)
            files = {CARD: text.encode(), **files}
        folder = Path(save_directory)
        for name, data in files.items():
            with written_whole(folder / name, durable=True) as file:
                file.write(data)
        return upload(folder, repo_id or folder.name, **upload_options) if push_to_hub else None

    def push_to_hub(self, repo_id: str, **options: Any) -> str | None:
        """Saves the model to a temporary folder and uploads it to the Hugging Face hub.

        Args:
            repo_id: "owner/name"; made if it is not there.
            options: of `save_pretrained`.

        Returns:
            URL of the commit.

        Raises:
            ValueError: huggingface_hub or safetensors is not installed, or as in `save_pretrained`.
        """
        with tempfile.TemporaryDirectory() as folder:
            return self.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        strict: bool = True,
        **arguments: Any,
    ) -> Any:
        """The model in a folder, or in a repository of the Hugging Face hub.

        Called on a model's class it accepts that class only, on SegmentationModel any.

        Args:
            source: folder that holds config.json and model.safetensors, or "owner/name" of a
                repository, which is downloaded (and kept by huggingface_hub).
            revision: branch, tag or commit of the repository.
            strict: whether every tensor has to fit. Without, those that are missing or of another
                shape keep their initial values, with a warning that names them.
            arguments: of the model's constructor, in place of those in config.json; to train a
                model for other classes, `classes=3, strict=False`.

        Returns:
            The model in eval mode, float32, on the CPU.

        Raises:
            ValueError: it cannot be had, is damaged, or of another class.
        """
        folder = Path(source)
        if not folder.is_dir():
            folder = _download(str(source), revision)
        origin = str(folder / CONFIG)
        config = _read_config(folder / CONFIG)
        rename: Callable[[StateDict], StateDict] = dict
        from . import transformers_folder  # which knows the models, and they this

        if transformers_folder.is_transformers(config):
            config, rename = transformers_folder.as_ours(folder, origin, config)
        name = config.pop("_model_class", None)
        allowed = {n: c for c in _subclasses(cls) for n in (c.__name__, c.smp_name) if n}
        if not isinstance(name, str) or name not in allowed:
            raise ValueError(
                f"{origin}: _model_class is {shown(name)}, allowed are {', '.join(allowed)}"
            )
        extras = checked(origin, {k: v for k, v in config.items() if k.startswith("_")}, _extras())
        if "classes" in arguments:
            extras.pop("_classes", None)
        stored_arguments = {
            k: v for k, v in config.items() if not k.startswith("_") and k not in arguments
        }
        path = folder / WEIGHTS
        if not path.is_file():
            raise ValueError(f"{path}: is not there")
        weights = rename(unwrap(str(path), read_tensors(path)))
        model = _build(origin, allowed[name], stored_arguments, arguments, extras, len(weights))
        if strict:
            return fill(str(path), name, model, weights)
        started = allowed[name](**model._arguments)
        for attribute in _PREPROCESSING:
            setattr(started, attribute, getattr(model, attribute))
        started.load_state_dict(weights, strict=False)
        return started.eval()


def _build(
    origin: str,
    cls: type[Any],
    arguments: dict[str, Any],
    trusted: dict[str, Any],
    extras: dict[str, Any],
    tensors: int,
) -> Any:
    """The model on the meta device, with its classes and what it expects of images.

    Args:
        arguments: as they stand in the file. trusted: those that the caller gives.
    """
    trusted = dict(trusted)
    if "_classes" in extras:
        trusted["classes"] = extras["_classes"]
        count = arguments.pop("classes", len(extras["_classes"]))
        if count != len(extras["_classes"]):
            raise ValueError(
                f"{origin}: classes is {shown(count)}, but _classes has {len(extras['_classes'])}"
            )
    checked(origin, arguments, Record(optional={"classes": _count()}, others=PLAIN))
    model = build(origin, cls, arguments, tensors, **trusted)
    for attribute in _PREPROCESSING:
        if f"_{attribute}" in extras:
            value = extras[f"_{attribute}"]
            if isinstance(value, list) and len(value) not in (3, model.in_channels):
                raise ValueError(
                    f"{origin}: _{attribute} has {len(value)} numbers, expected one for each of "
                    f"{model.in_channels} channels"
                )
            setattr(model, attribute, tuple(value) if isinstance(value, list) else value)
    return model


def _extras() -> Record:
    """The entries of config.json that are not the constructor's."""
    fields = {f"_{name}": schema for name, schema in _PREPROCESSING.items()}
    return Record(optional={**fields, "_classes": StoredClasses()}, others=PLAIN)


def _count() -> Schema:
    return Integer(1, limits().classes)


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


def _subclasses(cls: type[Pretrained]) -> list[type[Any]]:
    """cls and what is derived from it, without the abstract ones."""
    found: list[type[Any]] = [] if cls.__subclasses__() else [cls]
    for subclass in cls.__subclasses__():
        found += _subclasses(subclass)
    return found


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, Record({}, others=PLAIN))
    except FileNotFoundError:
        raise ValueError(f"{path}: is not there") from None


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
            snapshot_download(
                repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS, PROCESSOR]
            )
        )
    except Exception as error:  # the hub's client raises errors of several packages
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{repository}: is no folder, and cannot be had from the Hugging Face hub "
            f"({type(error).__name__}: {reason[0] if reason else ''}); {hint}"
        ) from error
