"""The command line: `fastseg` and `python -m fastseg`."""

from __future__ import annotations

import importlib.util
import sys

# Import name -> distribution, of the packages that only the command line needs.
_NEEDED = {"typer": "typer", "rich": "rich", "PIL": "Pillow"}


def main() -> None:
    """Runs the command line, or says in one line what to install for it."""
    missing = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(
            f"fastseg: the command line needs {', '.join(missing)}: "
            "pip install 'fastseg-kernels[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from .cli.app import app

    app(prog_name="fastseg")


if __name__ == "__main__":
    main()
