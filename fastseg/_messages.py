"""Messages that fit on one line."""

from __future__ import annotations


def one_line(message: object) -> str:
    """A message, of an exception perhaps, without its line breaks and control characters."""
    words = " ".join(str(message).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def shortened(message: object, longest: int = 300) -> str:
    """A message that others wrote, on one line, without its end if it is long."""
    line = one_line(message)
    return line if len(line) <= longest else f"{line[:longest]}..."


def reason(error: BaseException) -> str:
    """What an exception says, in one line; for system errors without number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) or type(error).__name__
