"""Ctrl-C: a command that is stopped says what is kept, and exits as shells expect."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from layerwise.cli.printing import complain

INTERRUPTED = 130  # exit code
KEPT = "nothing is lost; the same command does the rest"


@contextmanager
def resumable(otherwise: str = KEPT) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the command with one line: what was done by then, or `otherwise`."""
    with stoppable(), _told(otherwise):
        yield


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the command without a word."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt_once)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _told(otherwise: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interruption:
        complain("Interrupted", str(interruption) or otherwise)
        raise


def _interrupt_once(*_signal: object) -> None:
    """Answer the first one alone: workers are being ended, which takes a moment."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    raise KeyboardInterrupt
