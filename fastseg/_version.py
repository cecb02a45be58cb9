"""The one place that holds the version: pyproject.toml, setup.py and the native core read it."""

__version__ = "0.1.0"
