"""Models from files of any kind, and initial weights from another model."""

from __future__ import annotations

from pathlib import Path

import torch

from ..models import SegmentationModel, default_model, load_checkpoint


def load_model(path: Path | None) -> SegmentationModel:
    """Loads the model of a checkpoint of fastseg train or a known library, or of a folder.

    A folder is one of save_pretrained. Without a path, loads the model that ships with the package.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no model that is known, is damaged, or has weights that are no numbers.
    """
    if path is None:
        return default_model()
    model = SegmentationModel.from_pretrained(path) if path.is_dir() else load_checkpoint(path)
    for name, values in model.state_dict().items():
        # Such a model gives the first class everywhere, and no other sign.
        if values.is_floating_point() and not values.isfinite().all():
            raise ValueError(
                f"{path}: {name} holds NaN or infinity, as after a training that diverged"
            )
    return model


def start_from(model: SegmentationModel, source: SegmentationModel) -> list[str]:
    """Copies the weights that fit in name and shape.

    Returns:
        Names of the tensors that were left unchanged.

    Raises:
        ValueError: none fits.
    """
    own, given = model.state_dict(), source.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not any(isinstance(v, torch.Tensor) and v.dim() > 1 for v in fitting.values()):
        raise ValueError(f"its weights are those of another model ({type(source).__name__})")
    model.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]
