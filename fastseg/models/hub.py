"""What the Hugging Face hub shows and takes of a saved model: its card and its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARD = "README.md"
_NO_HUB = (
    'the Hugging Face hub needs the package huggingface_hub: pip install "fastseg-kernels[hub]"'
)


def card(
    name: str,
    config: Mapping[str, Any],
    dataset: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """The text of a model's card, as the hub reads it.

    Args:
        name: of the model's class.
        config: the constructor's arguments; those that begin with "_" are left out.
        dataset: name of the data that the model was trained on.
        metrics: name -> value.

    Raises:
        TypeError: a metric is not a plain value.
    """
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    parts = [
        "---\npipeline_tag: image-segmentation\ntags:\n- semantic-segmentation\n- fastseg\n---\n",
        f"# {name}\n",
        "```python\nfrom fastseg.models import SegmentationModel\n\n"
        'model = SegmentationModel.from_pretrained("<this folder or repository>")\n```\n',
        f"## Arguments\n\n```json\n{json.dumps(arguments, indent=2)}\n```\n",
    ]
    if metrics is not None:
        parts.append(f"## Metrics\n\n```json\n{json.dumps(dict(metrics), indent=2)}\n```\n")
    if dataset is not None:
        parts.append(f"## Data set\n\n{dataset}\n")
    return "\n".join(parts)


def upload(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload of a fastseg model",
) -> str:
    """Uploads a folder to a repository of the hub, which is made if it is not there.

    Args:
        folder: that `save_pretrained` wrote.
        repository: "owner/name".
        private: whether a new repository is; None for the account's default.
        token: of the account; by default the one that huggingface_hub has saved.
        revision: branch.
        message: of the commit.

    Returns:
        URL of the commit.

    Raises:
        ValueError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ValueError(f"{repository}: {_NO_HUB}") from error
    api = HfApi(token=token)
    made = api.create_repo(repository, private=private, exist_ok=True).repo_id
    return str(
        api.upload_folder(
            repo_id=made, folder_path=Path(folder), revision=revision, commit_message=message
        )
    )
