"""A family of checkpoints, and what the files of the libraries build theirs from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ..files import StateDict

# Encoder option of libraries in which the first block of a dilated stage keeps the dilation of
# the stage before. In the others (smp, semseg) that block is dilated too.
CONTRACTED = {"contract_dilation": True}
# Stem of three 3x3 convolutions: index in the library's nn.Sequential -> our name. The last norm
# is the encoder's own bn1.
DEEP_STEM = {0: "conv1.0", 1: "conv1.1", 3: "conv1.3", 4: "conv1.4", 6: "conv1.6", 7: "bn1"}


@dataclasses.dataclass(frozen=True)
class Family:
    """Checkpoints whose tensors have the same names: one model class, at any width.

    Attributes:
        name: "<library>-<model>", as messages and the command line show it.
        model: its class.
        arguments: reads the constructor's arguments off a state dict in our names. If it raises
            KeyError for a missing tensor, the checkpoint is compared with `model()` instead.
        signature: prefixes of names that, all present, identify the family.
        without: prefixes of another family that has all of the signature too.
        names: our prefix for each of the library's prefixes, where they differ; the longest fits.
        convert: changes tensors (after renaming) that differ in more than their names.
        restore: the reverse of `convert`, if there is one.
    """

    name: str
    model: Any
    arguments: Callable[[StateDict], dict[str, Any]]
    signature: tuple[str, ...]
    without: tuple[str, ...] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    convert: Callable[[StateDict], StateDict] | None = None
    restore: Callable[[StateDict], StateDict] | None = None

    def recognises(self, state_dict: StateDict) -> bool:
        """Whether a state dict is of this family, by the names of its tensors."""
        present = all(any(key.startswith(p) for key in state_dict) for p in self.signature)
        return present and not any(key.startswith(self.without) for key in state_dict)

    def translated(self, state_dict: StateDict) -> StateDict:
        """The tensors as our model has them; unknown ones keep their names."""
        ordered = sorted(self.names, key=len, reverse=True)
        result: StateDict = {}
        for key, value in state_dict.items():
            prefix = next((p for p in ordered if key.startswith(p)), None)
            result[key if prefix is None else self.names[prefix] + key[len(prefix) :]] = value
        return result if self.convert is None else self.convert(result)

    def restored(self, state_dict: StateDict) -> StateDict:
        """The reverse of `translated`, as far as names go.

        Raises:
            ValueError: the tensors were changed in a way that cannot be undone.
        """
        if self.convert is not None and self.restore is None:
            raise ValueError(f"{self.name}: its tensors are read only, and not written")
        given = dict(state_dict) if self.restore is None else self.restore(state_dict)
        theirs: dict[str, str] = {}
        for prefix, ours in self.names.items():
            theirs.setdefault(ours, prefix)  # of two names the first is the one to write
        ordered = sorted(theirs, key=len, reverse=True)
        result: StateDict = {}
        for key, value in given.items():
            ours = next((p for p in ordered if key.startswith(p)), "")
            result[theirs[ours] + key[len(ours) :] if ours else key] = value
        return result
