"""Signals that end a run: at once before training, with a saved checkpoint during training."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
Handler = Callable[[int, Any], None]
TIED = "PT_FLOWS_TIED"
"""Environment variable of a process that ends with the one at the other end of its standard input."""


def listen(handler: Handler, signals: tuple[signal.Signals, ...] = ENDING) -> dict[signal.Signals, Any]:
    """Handle signals. If the process was started to ignore hangups (nohup), they stay ignored.

    Returns:
        The previous handlers; none outside the main thread, which alone may handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in signals}
    heard = {n: old for n, old in before.items() if n != signal.SIGHUP or old is not signal.SIG_IGN}
    for number in heard:
        signal.signal(number, handler)
    return heard


@contextmanager
def handled(handler: Handler, signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Handle signals, and restore the previous handlers at the end."""
    before = listen(handler, signals)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `KeyboardInterrupt` like Ctrl-C, so that a command can report about its work."""
    before = {signal.SIGINT: signal.getsignal(signal.SIGINT)}  # Lightning changes it when it is interrupted
    before |= listen(interrupt, (signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def end_with_parent() -> None:
    """Send SIGTERM to this process when the process that started it and holds its standard input has died."""
    if os.environ.pop(TIED, None) is None:
        return

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="end-with-parent").start()


def interrupt(number: int, frame: Any) -> None:
    """Raise `KeyboardInterrupt` with the number of the signal."""
    raise KeyboardInterrupt(number)


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """Return the signal behind an interruption. Python's own handler of Ctrl-C does not name it."""
    return signal.Signals(error.args[0]) if error.args else signal.SIGINT


class StopInOrder:
    """A handler for training: the first signal asks it to stop, the second is confirmed, the third interrupts it.

    Args:
        at_risk: Returns the sentence about the work that a stop at once would lose.
    """

    def __init__(self, at_risk: Callable[[], str]) -> None:
        self.at_risk = at_risk
        self.received: int | None = None
        self._count = 0

    def __call__(self, number: int, frame: Any) -> None:
        """Count a signal. Python calls this between two instructions of the main thread."""
        self._count += 1
        if self._count > 2:
            interrupt(number, frame)
        self.received, again = number, self.received is not None
        name = signal.Signals(number).name
        if again:
            tell(f"{name} again: still finishing and saving. A third signal stops at once ({self.at_risk()})")
        else:
            tell(f"{name}: finishing the current block, then saving and stopping")


def tell(text: str) -> None:
    """Print from a signal handler, in which the buffers of Python's streams may be in use."""
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:  # the terminal is closed, and a failed print must not end the run before it saves
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
