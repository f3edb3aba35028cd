"""A signal whose handler raises."""

import contextlib
import signal


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
