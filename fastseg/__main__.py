"""The command line: `fastseg` and `python -m fastseg`."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import sys

# Import name -> distribution, of the packages that only the command line needs.
_NEEDED = {"typer": "typer", "rich": "rich", "PIL": "Pillow"}


_OF_STDOUT = (errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EBADF, errno.EFBIG)


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
    from .cli.console import print_what_fits

    print_what_fits()
    try:
        try:
            app(prog_name="fastseg")
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Of stdout: a full disk behind it, say. Commands report all other files themselves.
        if error.filename is not None or error.errno not in _OF_STDOUT:
            raise
        message = f"fastseg: the output cannot be written ({error.strerror or error})"
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr)
        os._exit(1)  # flushing stdout at the exit would fail again, with a traceback


if __name__ == "__main__":
    main()
