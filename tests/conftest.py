"""Fixtures of the whole test-suite.

Every behaviour test takes the package as the fixture `mp` and runs twice, on the standard package and on manycore: what the
standard package does is measured, not remembered. Tests of what only manycore has say so, with the reason:
`@pytest.mark.only("manycore", reason="...")`.

Around every test stand a watchdog (a hang is a failure that shows where everyone waits) and a census (nothing may be left).
"""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings

import pytest

from support import census, signals, watchdog
from support.gate import Gate
from support.script import Script

PACKAGES = ("multiprocessing", "manycore")
#: The default of the newest interpreters first.
METHODS = ("forkserver", "fork", "spawn")
DEADLINE = 60.0
PR_SET_CHILD_SUBREAPER = 36

MARKERS = (
    "only(package, reason): the behaviour exists in this package alone",
    "methods(*names): the start methods a test of the fixture `ctx` runs in (default: all)",
    "deadline(seconds): how long the test may run before it counts as hanging (default 60)",
    "large: needs gigabytes of memory; skipped where they are not free",
    "keeps(reason): the test leaves something on purpose; the census only cleans up",
)


def pytest_addoption(parser):
    group = parser.getgroup("manycore")
    group.addoption("--package", choices=PACKAGES, help="run the tests of the fixture `mp` on this package alone")
    group.addoption(
        "--start-method", choices=METHODS, help="run the tests of the fixture `ctx` in this start method alone"
    )


def pytest_configure(config):
    signals.heed()
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    for warning in ("UnhandledThreadException", "UnraisableException"):
        config.addinivalue_line("filterwarnings", f"error::pytest.Pytest{warning}Warning")
    # It starts threads when it is first imported, which no test should be blamed for.
    with contextlib.suppress(ImportError):
        importlib.import_module("numpy")
    # A worker that crashes on purpose leaves no core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # Orphans of a script become ours, so that the census sees them.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Children over exec print their stacks when the watchdog ends them; forked ones inherit the handler.
    os.environ["PYTHONFAULTHANDLER"] = "1"
    # Temporary files of this run alone, so that what is left there is ours. Removed after the packages' own exit handlers,
    # which are registered later and run earlier.
    scratch = os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="mct-")
    atexit.register(remove_scratch, scratch, os.getpid())
    config.stash[stderr_key] = os.dup(2)
    faulthandler.register(signal.SIGUSR1, file=config.stash[stderr_key], all_threads=True)
    signal.signal(signal.SIGALRM, on_hang)
    config.stash[watchdog_key] = subprocess.Popen(
        [sys.executable, "-S", "-E", watchdog.__file__],
        stdin=subprocess.PIPE,
        stderr=config.stash[stderr_key],
        start_new_session=True,
        text=True,
    )


def pytest_unconfigure(config):
    guard = config.stash.get(watchdog_key, None)
    if guard is None:
        return
    guard.stdin.close()
    guard.wait()
    faulthandler.unregister(signal.SIGUSR1)
    os.close(config.stash[stderr_key])


def remove_scratch(folder, owner):
    if os.getpid() == owner:  # not in a forked child that ends by sys.exit
        shutil.rmtree(folder, ignore_errors=True)


stderr_key = pytest.StashKey()
watchdog_key = pytest.StashKey()
report_key = pytest.StashKey()


def on_hang(*_):
    pytest.fail("the test hangs (stacks of every process are on the standard error of the run)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """The watchdog covers fixtures too: what hangs is often the clean-up."""
    marker = item.get_closest_marker("deadline")
    seconds = marker.args[0] if marker else DEADLINE
    guard = item.config.stash[watchdog_key].stdin
    guard.write(f"arm {seconds} {item.nodeid}\n")
    guard.flush()
    try:
        return (yield)
    finally:
        guard.write("disarm\n")
        guard.flush()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.stash.setdefault(report_key, {})[report.when] = report
    return report


def pytest_runtest_setup(item):
    if item.get_closest_marker("large") and census.available_bytes() < 12 << 30:
        pytest.skip("needs 12 GiB of free memory")


def pytest_generate_tests(metafunc):
    definition = metafunc.definition
    if "mp" in metafunc.fixturenames:
        names = PACKAGES
        if marker := definition.get_closest_marker("only"):
            assert marker.kwargs.get("reason"), "say why the other package has not the behaviour"
            names = marker.args
        if chosen := metafunc.config.getoption("--package"):
            names = tuple(name for name in names if name == chosen)
        metafunc.parametrize("mp", names, indirect=True)
    if "ctx" in metafunc.fixturenames:
        marker = definition.get_closest_marker("methods")
        methods = marker.args if marker else METHODS
        if chosen := metafunc.config.getoption("--start-method"):
            methods = tuple(name for name in methods if name == chosen)
        metafunc.parametrize("ctx", methods, indirect=True)


@pytest.fixture
def mp(request):
    """The package under test."""
    return importlib.import_module(request.param)


@pytest.fixture
def ctx(request, mp):
    """A context of the package under test, one for every start method."""
    return mp.get_context(request.param)


@pytest.fixture
def pool(mp):
    """A pool of two workers in the interpreter's default start method."""
    with mp.Pool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture
def gate():
    with Gate() as gate:
        yield gate


@pytest.fixture
def script(tmp_path, mp):
    """`script(text)` runs the text as a program of its own with the package as `mp`; see support.script."""
    running = []

    def start(text, **options):
        running.append(Script(tmp_path, mp.__name__, text, **options))
        return running[-1]

    yield start
    for one in running:
        with one:
            pass


@pytest.fixture
def managers(mp):
    """The package's module of that name."""
    return importlib.import_module(f"{mp.__name__}.managers")


@pytest.fixture
def manager(mp):
    """One manager in the interpreter's default start method."""
    with mp.Manager() as manager:
        yield manager
    manager.join()


_warm = set()


def warm_up(context):
    """Lets the package create what it keeps for the life of the process (server processes and their sockets), so that the
    census of a test counts only what the test itself left."""
    key = (type(context).__module__, context.get_start_method())
    if key not in _warm:
        _warm.add(key)
        process = context.Process(target=int)
        process.start()
        process.join()
        if hasattr(context, "Lock"):
            context.Lock()
        if hasattr(context, "Pool"):
            with context.Pool(1) as pool:
                pool.map(int, ["1"])
            pool.join()


@pytest.fixture(autouse=True)
def nothing_left(request):
    """After a test no child, zombie, descriptor, thread or file may be left. Of the standard package only processes are
    asked: it leaves the rest to the collector and to chance."""
    package = None
    names = request.fixturenames
    if "mp" in names:
        package = request.getfixturevalue("mp")
    guard = request.config.stash[watchdog_key].pid
    try:
        if "ctx" in names:
            warm_up(request.getfixturevalue("ctx"))
        elif package is not None:
            warm_up(package.get_context())
    except Exception as error:
        warnings.warn(f"warm-up failed: {error!r}", stacklevel=1)
    gc.collect()
    # pytest's own folder appears with the first test that asks for one.
    request.getfixturevalue("tmp_path_factory").getbasetemp()
    before = census.Snapshot(ignore=(guard,))
    yield
    report = request.node.stash.get(report_key, {}).get("call")
    passed = report is not None and report.passed
    found = {}
    # Names in /dev/shm are everybody's, and other tests may run at the same time: ours is what every look has found.
    shm = None

    def clean():
        nonlocal shm
        gc.collect()
        known = ()
        if package is not None:
            package.active_children()
            known = {child.pid for child in package.process._children}
        census.reap_adopted(known)
        found.clear()
        found.update(census.Snapshot(ignore=(guard,)).difference(before, processes_only=not strict))
        seen = found.pop("/dev/shm", set())
        shm = seen if shm is None else shm & seen
        if shm:
            shm -= census.used_by_others(shm)
        if shm:
            found["/dev/shm"] = shm
        if not strict and "processes" in found:
            # The standard package's resource tracker outlives its process for a while, then nobody collects it.
            known = ("resource_tracker", "zombie")
            left = {name: n for name, n in found["processes"].items() if not any(word in name for word in known)}
            found.update(processes=left) if left else found.clear()
        return not found

    # pytest keeps what the fixtures gave until after this; a pool that is referenced keeps its shared memory.
    request.node.funcargs.pop("pool", None)
    strict = package is None or package.__name__ == "manycore"
    # A failed test keeps its objects alive in the traceback: it is cleaned up after, not judged.
    census.eventually(clean, census.PATIENCE if passed else 0.5)
    for pid in census.Snapshot(ignore=(guard,)).pids:
        if pid not in before.pids and found.get("processes"):
            kill(pid)
    if found and passed and not request.node.get_closest_marker("keeps"):
        pytest.fail(f"left behind: {found}")


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
