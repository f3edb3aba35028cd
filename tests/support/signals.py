"""Signals that whoever started the tests has had ignored."""

import signal


def heed():
    """Have this process and those that it starts end by the signals that end programs.

    A job in the background starts with SIGINT ignored, and nohup ignores SIGHUP; children inherit both, and tests
    interrupt and end them by such signals.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
