"""What commands share on the terminal: a progress bar, or plain lines where there is no terminal."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress_bar"]

_LINE_INTERVAL_S = 5.0


@contextmanager
def progress_bar(description: str, *, counts_bytes: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """Show how far long work is, on standard error.

    Yields a function of the amount done and the total (None where unknown), which any thread may
    call. On a terminal it moves a bar that vanishes at the end; elsewhere it prints a line every
    five seconds, so that a log stays short.

    Parameters
    ----------
    description : str
        What is being done, as a participle.
    counts_bytes : bool
        Whether the amounts are bytes.
    """
    if sys.stderr.isatty():
        amount = DownloadColumn() if counts_bytes else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _lines(description, "bytes" if counts_bytes else "", time.monotonic)


def _lines(description: str, unit: str, clock: Callable[[], float]) -> Callable[[int, int | None], None]:
    """Make a progress function that prints a line at most every few seconds."""
    lock = threading.Lock()
    last_s = clock()

    def report(done: int, total: int | None) -> None:
        nonlocal last_s
        with lock:
            if clock() - last_s < _LINE_INTERVAL_S:
                return
            last_s = clock()
            of_total = "" if total is None else f" of {total:,} ({done / max(total, 1):.0%})"
            print(f"{description}: {done:,}{of_total} {unit}".rstrip(), file=sys.stderr, flush=True)

    return report
