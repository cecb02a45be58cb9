"""Dense conditional random fields."""

from ..ops.permutohedral_filter import Lattice

__all__ = ["Lattice"]
