"""Thin modules that hold the parameters of the ops."""

from .conv import DilatedConv2d

__all__ = ["DilatedConv2d"]
