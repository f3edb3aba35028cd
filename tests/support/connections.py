"""What the tests of connections share."""

import contextlib
import importlib
import threading


def connection_of(mp):
    return importlib.import_module(f"{mp.__name__}.connection")


@contextlib.contextmanager
def threads(*functions):
    """Runs functions beside the test; what they raise, it raises."""
    failures = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for one in running:
        one.start()
    try:
        yield
    finally:
        for one in running:
            one.join()
    if failures:
        raise failures[0]
