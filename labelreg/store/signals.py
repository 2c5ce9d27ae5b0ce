"""Signals that wait for the end of a call to a database."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def undivided() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A signal that comes meanwhile is heard at the end; what is yielded makes a block in which it is heard at once.

    An exception in the middle of SQLAlchemy's work can leave a transaction open for as long as the process lives:
    the database is locked then, for this run's end and for everyone else.
    """
    if threading.current_thread() is not threading.main_thread():
        yield nullcontext
        return
    late: list[int] = []

    def hear(number: int, frame: object) -> None:
        late.append(number)

    handlers = {number: signal.getsignal(number) for number in NUMBERS}

    def hold() -> None:
        for number, handler in handlers.items():
            if signal.getsignal(number) is handler:  # else one was heard, whose handler has set others
                signal.signal(number, hear)

    def let_go() -> None:
        for number, handler in handlers.items():
            if signal.getsignal(number) is hear:
                signal.signal(number, handler)
        if late:
            first, late[:] = late[0], []
            signal.raise_signal(first)

    @contextmanager
    def heard() -> Iterator[None]:
        try:
            let_go()
            yield
        finally:
            hold()

    try:
        hold()
        yield heard
    finally:
        let_go()
