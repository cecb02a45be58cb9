"""Output files that are written whole or not at all."""

from .._files import written_whole

__all__ = ["written_whole"]
