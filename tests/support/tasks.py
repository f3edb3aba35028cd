"""Functions and classes that tests run in workers: at module level, so that every start method finds them."""

import ctypes
import functools
import os
import signal
import sys
import threading

# --- plain work ------------------------------------------------------------------------------------------------------


def square(x):
    return x * x


def add(a, b):
    return a + b


def identity(x):
    return x


def echo(*args, **kwargs):
    return args, kwargs


def whoami(*_):
    return os.getpid()


def half(x):
    return x / 2


def double(x):
    return x * 2


def length(x):
    return len(x)


def typename(x):
    return type(x).__name__


def make_bytes(size):
    return bytes(size)


class Multiplier:
    """Callable, with a bound method and a class method to pass."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def method(self, x):
        return self.factor * x + 1

    @classmethod
    def build(cls, factor):
        return cls(factor)

    @staticmethod
    def static(x):
        return x - 1

    def __eq__(self, other):
        return type(other) is Multiplier and self.factor == other.factor

    __hash__ = None


triple = functools.partial(add, b=3)


# --- waiting ---------------------------------------------------------------------------------------------------------


def wait_at(gate, value=None):
    """Announces itself, waits until the test opens the gate."""
    gate.arrive()
    return value


def wait_if(gate, x, waits):
    if x == waits:
        gate.arrive()
    return x


def wait_for_ever(*_):
    """For tasks that only a signal ends."""
    while True:
        signal.pause()


def say_and_wait(word):
    """Writes a line to the script's output, then waits to be ended."""
    os.write(1, f"{word}\n".encode())
    wait_for_ever()


def spin_for_ever(*_):
    while True:
        pass


# --- initializers ----------------------------------------------------------------------------------------------------

state = {}


def remember(*args):
    state["args"] = args
    state["calls"] = state.get("calls", 0) + 1
    state["pid"] = os.getpid()


def recall(*_):
    return dict(state)


class InitializerError(Exception):
    pass


def fail_to_initialize(path=None):
    if path is not None:
        count_start(path)
    raise InitializerError("not today")


def count_start(path):
    """One byte a start, so that a test can count how often workers were started."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, b"x")
    os.close(descriptor)


def die_while_starting(path):
    count_start(path)
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_starting_once(path):
    """Only the first worker dies: the pool must recover."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


# --- exceptions ------------------------------------------------------------------------------------------------------


def fail(x=None):
    raise ValueError(x)  # MARKER of the worker's frame


def fail_if(x, victim):
    if x == victim:
        raise ValueError(x)
    return x


def fail_with_cause():
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise RuntimeError("outer") from error


class WithTwo(Exception):
    """Cannot be rebuilt from its `args`: unpickling calls `WithTwo(a)`."""

    def __init__(self, a, b):
        super().__init__(a)
        self.b = b


class WithState(Exception):
    """A custom `__init__` that pickles well, with attributes to keep."""

    def __init__(self, a, b):
        super().__init__(a, b)
        self.extra = {"a": a, "b": b}


class WithLock(Exception):
    """Cannot be pickled at all."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


def raise_with_two():
    raise WithTwo(1, 2)


def raise_with_state():
    raise WithState(1, "b")


def raise_with_lock():
    raise WithLock("locked")


def raise_base_exception():
    raise BaseException("neither an error nor an exit")


def raise_group():
    raise ExceptionGroup("several", [ValueError(1), TypeError(2)])


# --- what does not travel --------------------------------------------------------------------------------------------


class PickleError(Exception):
    pass


class UnpickleError(Exception):
    pass


class NoPickle:
    def __reduce__(self):
        raise PickleError("cannot be pickled")


def _no_unpickle():
    raise UnpickleError("cannot be unpickled")


class NoUnpickle:
    def __reduce__(self):
        return _no_unpickle, ()


def _exit_in_unpickle(code):
    os._exit(code)


class DiesInUnpickle:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return _exit_in_unpickle, (7,)


class DiesInPickle:
    """Ends the process that pickles it."""

    def __reduce__(self):
        os._exit(7)


def give_lock(*_):
    return threading.Lock()


def give_no_pickle(*_):
    return NoPickle()


def give_no_unpickle(*_):
    return NoUnpickle()


def give_dies_in_pickle(*_):
    return DiesInPickle()


def give_generator(*_):
    return (x for x in ())


def nested(depth):
    """A list inside a list inside a list."""
    inner = []
    for _ in range(depth):
        inner = [inner]
    return inner


# --- death -----------------------------------------------------------------------------------------------------------


def die_by_signal(signum):
    os.kill(os.getpid(), signum)
    wait_for_ever()


def die_of_segfault(*_):
    ctypes.string_at(0)


def die_by_exit(code):
    os._exit(code)


def leave_by_system_exit(code):
    sys.exit(code)


def raise_keyboard_interrupt(*_):
    raise KeyboardInterrupt


DEATHS = {
    "sigkill": (die_by_signal, signal.SIGKILL),
    "sigterm": (die_by_signal, signal.SIGTERM),
    "segfault": (die_of_segfault, None),
    "exit0": (die_by_exit, 0),
    "exit3": (die_by_exit, 3),
    "system_exit": (leave_by_system_exit, 3),
    "keyboard_interrupt": (raise_keyboard_interrupt, None),
}


def die(how):
    function, argument = DEATHS[how]
    return function(argument)


def die_if(x, victim, how):
    """The task `victim` ends its worker, the others answer."""
    if x == victim:
        die(how)
    return x


def meet_and_die(gate, how):
    gate.arrive()
    die(how)


def die_after_answering(size):
    """Gives an answer of `size` bytes, and dies at some moment of its being sent, or after."""
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    return bytes(size)


# --- payloads --------------------------------------------------------------------------------------------------------


def fill_array(array, value):
    """Writes into what it received; the result says what it was before."""
    before = array.copy()
    array[...] = value
    return before, array


def overwrite(buffer):
    buffer[0] = 99
    return buffer


def is_same_object(pair):
    return pair[0] is pair[1]


def append_to_first(pair):
    pair[0].append("new")
    return pair


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y


def point_sum(point):
    return point.x + point.y


class Sneaky:
    """Pickles by a registered reducer only."""

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        raise PickleError("the registered reducer must be used")


def rebuild_sneaky(value):
    return Sneaky(value * 10)


def reduce_sneaky(sneaky):
    return rebuild_sneaky, (sneaky.value,)


def sneaky_value(sneaky):
    return sneaky.value


# --- a worker's surroundings -----------------------------------------------------------------------------------------


def process_facts(package):
    import importlib

    mp = importlib.import_module(package)
    process = mp.current_process()
    return {"name": process.name, "daemon": process.daemon, "pid": process.pid, "parent": mp.parent_process().pid}


def map_inside(package, items):
    import importlib

    mp = importlib.import_module(package)
    with mp.Pool(2) as pool:
        result = pool.map(square, items)
    pool.join()
    return result


def change_surroundings(_):
    """What a careless task does to its process: closes what it does not own, changes folder and signal mask."""
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    os.environ["CARELESS"] = "1"
    sys.stdin = None
    return True


def open_descriptors(*_):
    return len(os.listdir("/proc/self/fd"))
