"""Folders that transformers' from_pretrained and save_pretrained exchange, of the models we have.

One entry of `_KINDS` per model_type: what its config.json means for our constructor, and back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .._json import checked, read_json
from .._schema import ANYTHING, Array, Integer, Number, Record, Schema, Table, Text, nullable
from ..classes import ClassSet, bright_colors, numbered_classes, voc_colors
from . import transformers_segformer as segformer
from . import transformers_upernet as upernet
from .checkpoints.mit import from_transformers, to_transformers
from .checkpoints.transformers import upernet_tensors, upernet_tensors_there
from .files import StateDict
from .pretrained import PROCESSOR
from .stored_classes import stored


class _Kind(NamedTuple):
    """One model_type.

    Attributes:
        name: of our class.
        fields: of config.json, what they have to look like.
        arguments: of our constructor, from config.json.
        read: renames tensors.
        config: of transformers, from our model; None where its folders are read only.
        write: renames tensors back.
    """

    name: str
    fields: Mapping[str, Schema]
    arguments: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    read: Callable[[StateDict], StateDict]
    config: Callable[[Any], dict[str, Any]] | None = None
    write: Callable[[StateDict], StateDict] = dict


def is_transformers(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of transformers."""
    return "model_type" in config and "_model_class" not in config


def as_ours(
    folder: Path, origin: str, config: Mapping[str, Any]
) -> tuple[dict[str, Any], Callable[[StateDict], StateDict]]:
    """A config.json of transformers as `Pretrained.config` has it, and what renames its tensors.

    Args:
        folder: that may hold a preprocessor_config.json too.
        origin: what messages call the file.

    Raises:
        ValueError: another model, or one that computes something else.
    """
    kind = _KINDS.get(str(config["model_type"]))
    if kind is None:
        raise ValueError(
            f"{origin}: model_type is {config['model_type']!r}, allowed are {', '.join(_KINDS)}"
        )
    fields = Record({}, {**_SHARED, **kind.fields}, ANYTHING)
    given = checked(origin, {k: v for k, v in config.items() if v is not None}, fields)
    classes = _classes(origin, given)
    ours = {
        "_model_class": kind.name,
        "classes": len(classes),
        **kind.arguments(origin, given),
        **_statistics(folder / PROCESSOR),
    }
    if classes != numbered_classes(len(classes)):
        ours["_classes"] = stored(classes)
    return ours, kind.read


def files(model: Any) -> dict[str, bytes]:
    """Content of config.json and preprocessor_config.json, by name, of a folder of transformers.

    Raises:
        ValueError: transformers has no such model.
    """
    kind = _kind_of(model)
    assert kind.config is not None
    names = model.classes.names
    if model.classes == numbered_classes(len(names)):
        names = _numbered(len(names))
    config = {
        **kind.config(model),
        "torch_dtype": "float32",
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    processor = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(model.mean),
        "image_processor_type": "SegformerImageProcessor",
        "image_std": list(model.std),
        "rescale_factor": 1 / 255,
        "size": {"height": model.working_size, "width": model.working_size},
    }
    contents = {"config.json": config, PROCESSOR: processor}
    return {name: (json.dumps(c, indent=2) + "\n").encode() for name, c in contents.items()}


def tensors(model: Any) -> StateDict:
    """A model's tensors in the names that transformers saves."""
    return _kind_of(model).write(model.state_dict())


def _kind_of(model: Any) -> _Kind:
    for kind in _KINDS.values():
        if kind.name == type(model).__name__ and kind.config is not None:
            return kind
    known = ", ".join(kind.name for kind in _KINDS.values() if kind.config is not None)
    raise ValueError(
        f"a {type(model).__name__} cannot be written for transformers, only a {known} can"
    )


def _classes(origin: str, config: Mapping[str, Any]) -> ClassSet:
    """The labels of config.json: id2label, or num_labels, or two."""
    labels = config.get("id2label")
    if labels is None:
        return numbered_classes(config.get("num_labels", 2))
    if sorted(labels, key=lambda key: (len(key), key)) != [str(i) for i in range(len(labels))]:
        raise ValueError(f"{origin}: id2label does not number its {len(labels)} labels from 0")
    names = tuple(labels[str(i)] for i in range(len(labels)))
    if names == _numbered(len(names)):
        return numbered_classes(len(names))
    return ClassSet(names, voc_colors(len(names)), bright_colors(len(names)))


def _numbered(count: int) -> tuple[str, ...]:
    """What transformers calls labels without names."""
    return tuple(f"LABEL_{i}" for i in range(count))


def _statistics(path: Path) -> dict[str, Any]:
    """Mean and std of a preprocessor_config.json, where they are not the usual ones."""
    if not path.is_file():
        return {}
    numbers = nullable(Array(Number(), 1, 4096))
    content = read_json(path, Record({}, {"image_mean": numbers, "image_std": numbers}, ANYTHING))
    found = {f"_{n}": content.get(f"image_{n}") for n in ("mean", "std")}
    return {name: value for name, value in found.items() if value is not None}


_SHARED: dict[str, Schema] = {
    "model_type": Text(),
    "id2label": Table(Text()),
    "num_labels": Integer(1, 1 << 24),
}
_KINDS = {
    "segformer": _Kind(
        "SegFormer",
        segformer.FIELDS,
        segformer.arguments,
        from_transformers,
        segformer.config,
        to_transformers,
    ),
    "upernet": _Kind(
        "UPerNet",
        upernet.FIELDS,
        upernet.arguments,
        upernet_tensors,
        upernet.config,
        upernet_tensors_there,
    ),
}
