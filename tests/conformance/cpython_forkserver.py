"""CPython's tests with the start method forkserver, as its own test.test_multiprocessing_forkserver makes them (not every
installation of the test package has that module)."""

from test import _test_multiprocessing

_test_multiprocessing.PRELOAD[1:] = [__name__]
_test_multiprocessing.install_tests_in_module_dict(globals(), "forkserver")
