"""Lists the attributes of a package's objects: a program, which is given the name of the package.

python -m support.attributes multiprocessing        prints pairs of an object's name and its attributes, as JSON
python -m support.attributes manycore <the pairs    prints the pairs again, with the attributes that are missing
"""

import contextlib
import functools
import importlib
import json
import sys
import warnings


def part(mp, name):
    return importlib.import_module(f"{mp.__name__}.{name}")


@contextlib.contextmanager
def pool_of(mp, kind):
    pool = part(mp, "pool").ThreadPool(1) if kind == "ThreadPool" else mp.get_context("fork").Pool(1)
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


@contextlib.contextmanager
def result_of(mp, kind, call, items):
    with pool_of(mp, kind) as pool:
        result = getattr(pool, call)(abs, items)
        yield result
        list(result) if "imap" in call else result.get()


@contextlib.contextmanager
def process_of(mp, method, started):
    process = mp.get_context(method).Process(target=abs, args=(1,))
    if started:
        process.start()
    yield process._popen if started else process
    if started:
        process.join()


@contextlib.contextmanager
def managed(mp, kind=None, *args):
    with mp.get_context("fork").Manager() as manager:
        yield manager if kind is None else getattr(manager, kind)(*args)


@contextlib.contextmanager
def memory(mp, kind, *args, **options):
    made = getattr(part(mp, "shared_memory"), kind)(*args, **options)
    segment = getattr(made, "shm", made)
    yield made
    segment.close()
    segment.unlink()


@contextlib.contextmanager
def plain(mp, kind, *args):
    yield getattr(mp.get_context("fork"), kind)(*args)


@contextlib.contextmanager
def found(mp, module, name):
    yield getattr(part(mp, module), name)


@contextlib.contextmanager
def connection(mp):
    one, other = mp.Pipe()
    with one, other:
        yield one


@contextlib.contextmanager
def listener(mp, inner):
    with part(mp, "connection").Listener() as listener:
        yield listener._listener if inner else listener


JOBS = (("apply_async", (1,)), ("map_async", [1]), ("imap", [1]), ("imap_unordered", [1]))
PLAIN = (
    *((kind, kind, ()) for kind in ("Queue", "JoinableQueue", "SimpleQueue", "Condition", "Event")),
    *(("lock", kind, ()) for kind in ("Lock", "RLock", "Semaphore", "BoundedSemaphore")),
    ("Barrier", "Barrier", (1,)),
    ("Value", "Value", ("i", 1)),
    ("Array", "Array", ("i", 1)),
)
MANAGED = (("dict",), ("list",), ("Queue",), ("Lock",), ("Event",), ("Namespace",), ("Value", "i", 1), ("Pool", 1))
FOUND = (
    ("tracker", "resource_tracker", "_resource_tracker"),
    ("fork server", "forkserver", "_forkserver"),
    ("sharer", "resource_sharer", "_resource_sharer"),
    ("context", "context", "_default_context"),
)

#: Pairs of a name, under which an object is in `ABSENT`, and what makes one in a package.
OBJECTS = [
    *(("Pool", functools.partial(pool_of, kind=kind)) for kind in ("Pool", "ThreadPool")),
    *(
        ("iterator" if "imap" in call else "result", functools.partial(result_of, kind=kind, call=call, items=items))
        for kind in ("Pool", "ThreadPool")
        for call, items in JOBS
    ),
    *((name, lambda mp, kind=kind, args=args: plain(mp, kind, *args)) for name, kind, args in PLAIN),
    *((f"managed {what[0]}", lambda mp, what=what: managed(mp, *what)) for what in MANAGED),
    ("manager", managed),
    *(
        ("popen" if started else "process", functools.partial(process_of, method=method, started=started))
        for method in ("fork", "forkserver", "spawn")
        for started in (False, True)
    ),
    ("connection", connection),
    *(("listener", functools.partial(listener, inner=inner)) for inner in (False, True)),
    ("segment", functools.partial(memory, kind="SharedMemory", create=True, size=1)),
    ("list", lambda mp: memory(mp, "ShareableList", [1])),
    *((name, functools.partial(found, module=module, name=attribute)) for name, module, attribute in FOUND),
    ("heap", lambda mp: contextlib.nullcontext(part(mp, "heap").Heap())),
]


def has(thing, name):
    try:
        getattr(thing, name)
    except AttributeError:
        return False
    except Exception:
        pass  # it is there, and has no value now
    return True


def attributes(thing):
    """All names in an object but those that every object has."""
    names = {*dir(thing), *getattr(thing, "__dict__", ())}
    return {name for name in names if not name.startswith("__") or name in ("__getstate__", "__setstate__")}


def main(package):
    mp = importlib.import_module(package)
    warnings.simplefilter("ignore")
    asked = None if sys.stdin.isatty() else json.loads(sys.stdin.read() or "null")
    answer = []
    for place, (name, make) in enumerate(OBJECTS):
        with make(mp) as thing:
            if asked is None:
                answer.append((name, sorted(attributes(thing))))
            else:
                answer.append((name, [attribute for attribute in asked[place][1] if not has(thing, attribute)]))
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
