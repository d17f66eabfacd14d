"""What is printed on the terminal: names of files and classes cannot command it (neutral)."""

from __future__ import annotations

import logging
import re
import sys

_COMMANDS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"  # Cc, bidi, Cs
)


def printable(text: str) -> str:
    """Return `text` with its control characters, line ends among them, as ``\\x1b``.

    So are what changes the direction of writing, and bytes of a name that are not UTF-8.
    """
    return _COMMANDS.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return `text` as `printable` does, but with its line ends."""
    return "\n".join(printable(line) for line in text.split("\n"))


def say(text: str, *, colour: str | None = None, err: bool = False) -> None:
    """Print a message, on standard error where `err`, after `printable_lines`."""
    import typer  # here: what reports progress needs no command line

    typer.secho(printable_lines(text), fg=colour, err=err)


def start_logging() -> None:
    """Let the log go to standard error, after `printable_lines`: warnings, and all of our own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
