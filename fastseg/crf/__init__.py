"""Dense conditional random fields."""

from ..ops.permutohedral_filter import Lattice
from .mean_field import Kernel, mean_field, mean_field_labels

__all__ = ["Kernel", "Lattice", "mean_field", "mean_field_labels"]
