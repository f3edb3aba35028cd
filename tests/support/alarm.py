"""A signal whose handler raises."""

import contextlib
import os
import queue
import signal
import threading


class Alarm(Exception):
    pass


@contextlib.contextmanager
def raising(signum):
    """Makes signal `signum` raise `Alarm` in the main thread, until the block ends."""

    def ring(*_):
        raise Alarm

    before = signal.signal(signum, ring)
    try:
        yield
    finally:
        signal.signal(signum, before)


@contextlib.contextmanager
def raising_once(signum):
    """Makes the first signal `signum` raise `Alarm` in the main thread, until the block ends.

    Gives a function that sends it, for another thread, until it was raised: Python sees a signal that comes just before
    a wait begins when that wait ends.
    """
    # A simple queue, unlike an event, may be told by a handler that interrupts anything.
    rung, sending, heard = [], threading.Lock(), queue.SimpleQueue()

    def ring(*_):
        if not rung:
            rung.append(signum)
            heard.put(signum)
            raise Alarm

    def send():
        while True:
            with sending:
                if rung:
                    return
                os.kill(os.getpid(), signum)
            with contextlib.suppress(queue.Empty):
                heard.get(timeout=0.01)

    before = signal.signal(signum, ring)
    try:
        yield send
    finally:
        with sending:
            rung.append(signum)
            signal.signal(signum, before)
