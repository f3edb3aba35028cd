"""A signal whose handler raises."""

import contextlib
import os
import signal
import threading
import time


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
    rung, sending = [], threading.Lock()

    def ring(*_):
        if not rung:
            rung.append(signum)
            raise Alarm

    def send():
        while True:
            with sending:
                if rung:
                    return
                os.kill(os.getpid(), signum)
            time.sleep(0.01)

    before = signal.signal(signum, ring)
    try:
        yield send
    finally:
        with sending:
            rung.append(signum)
            signal.signal(signum, before)
