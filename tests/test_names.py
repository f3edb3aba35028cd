"""Every public name and signature of the installed standard package, module by module, and what newer ones have added.

Public is what a module lists in `__all__`, and what it defines without an underscore: other libraries import both.
"""

import importlib
import importlib.util
import inspect
import multiprocessing
import pkgutil

import pytest

WINDOWS = {"popen_spawn_win32"}
MODULES = sorted(
    entry.name.removeprefix("multiprocessing.")
    for entry in pkgutil.walk_packages(multiprocessing.__path__, "multiprocessing.")
    if entry.name.rpartition(".")[2] not in WINDOWS
)


#: What a module offers beyond its `__all__` for its own sake only: the parts of an implementation that is not ours.
INTERNAL = {
    "forkserver": {"ForkServer.connect_to_new_process", "connect_to_new_process", "read_signed", "write_signed"},
    "managers": {"HAS_SHMEM", "reduce_array", "rebuild_as_list"},
    "pool": {
        "ExceptionWithTraceback",
        "job_counter",
        "mapstar",
        "rebuild_exc",
        "starmapstar",
        "worker",
    },
    "reduction": {"ACKNOWLEDGE"},
    "resource_tracker": {"ReentrantCallError", "cleanup_noop"},
    "sharedctypes": {"template"},
    "spawn": {"WINEXE", "WINSERVICE"},
}

#: What the newest standard packages have and every version has here: "module:name" or "module:Class.method", and the
#: parameters that a signature has more.
ADDED = {
    ":set_forkserver_preload": {"on_error"},  # 3.15
    "context:BaseContext.set_forkserver_preload": {"on_error"},
    "forkserver:set_forkserver_preload": {"on_error"},
    "forkserver:ForkServer.set_forkserver_preload": {"on_error"},
    "connection:deliver_challenge": {"digest_name"},  # 3.12
    "process:BaseProcess.interrupt": set(),  # 3.14
    "popen_fork:Popen.interrupt": set(),
    "pool:Pool.imap": {"buffersize"},  # 3.16
    "pool:Pool.imap_unordered": {"buffersize"},
    "synchronize:Lock.locked": set(),  # 3.14
    "synchronize:RLock.locked": set(),
    "synchronize:Semaphore.locked": set(),
    "synchronize:BoundedSemaphore.locked": set(),
    "shared_memory:SharedMemory.__init__": {"track"},  # 3.13
    "managers:SyncManager.set": set(),  # 3.14
    "managers:SetProxy": set(),
    "managers:AcquirerProxy.locked": set(),
    "managers:ListProxy.clear": set(),
    "managers:ListProxy.copy": set(),
    "managers:DictProxy.fromkeys": set(),
    "managers:DictProxy.__or__": set(),
    "managers:DictProxy.__ror__": set(),
    "managers:DictProxy.__ior__": set(),
    "managers:DictProxy.__reversed__": set(),
    "managers:DictProxy.__class_getitem__": set(),
    "managers:ListProxy.__class_getitem__": set(),
}

#: Signatures that differ on purpose, and why.
DIFFERENT = {
    "forkserver:main": "the command line of a zygote: one socket, no listener",
    "managers:SharedMemoryManager.__init__": "has parameters with names",
    "pool:ApplyResult.__init__": "results are made by a pool, never by a caller",
    "pool:AsyncResult.__init__": "results are made by a pool, never by a caller",
    "pool:MapResult.__init__": "results are made by a pool, never by a caller",
    "pool:IMapIterator.__init__": "results are made by a pool, never by a caller",
    "pool:IMapUnorderedIterator.__init__": "results are made by a pool, never by a caller",
    "pool:IMapIterator.__next__": "a timeout is for next()",
    "pool:IMapUnorderedIterator.__next__": "a timeout is for next()",
    "spawn:_main": "as spawn_main",
    "spawn:spawn_main": "the command line of a child: a memory file, and a lifeline instead of two numbers",
    "util:spawnv_passfds": "takes signals to block, too",
}

SPECIAL = {
    "__init__",
    "__call__",
    "__enter__",
    "__exit__",
    "__iter__",
    "__next__",
    "__len__",
    "__getitem__",
    "__setitem__",
    "__delitem__",
    "__contains__",
}


def pair(name):
    dotted = f".{name}" if name else ""
    return importlib.import_module(f"manycore{dotted}"), importlib.import_module(f"multiprocessing{dotted}")


def public_names(module):
    listed = set(getattr(module, "__all__", ()))
    for name, thing in vars(module).items():
        # What was imported from elsewhere is not this module's; constants do not say where they are from.
        own = getattr(thing, "__module__", module.__name__) in (module.__name__, None)
        if own and not name.startswith("_") and not inspect.ismodule(thing):
            listed.add(name)
    return sorted(listed)


def public_members(kind):
    own = {name for name in dir(kind) if not name.startswith("_")}
    for name in SPECIAL:
        found = inspect.getattr_static(kind, name, None)
        if found is not None and found is not inspect.getattr_static(object, name, None):
            own.add(name)
    return sorted(own)


def shape(function):
    """Names, kinds and whether there is a default, of each parameter but `self`; None where nobody can tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    return [(one.name, one.kind.name, one.default is not one.empty) for one in parameters]


def compare_callables(key, ours, theirs):
    mine, standard = shape(ours), shape(theirs)
    if standard is None or key in DIFFERENT:
        return
    more = ADDED.get(key, set())
    known = {name for name, _, _ in standard}
    if mine is not None:
        mine = [one for one in mine if one[0] not in more - known]
    if mine != standard:
        yield f"{key} takes {spelled(mine)} instead of {spelled(standard)}"


def spelled(parameters):
    if parameters is None:
        return "something unknown"
    return "(" + ", ".join(f"{name} [{kind.lower()}{', default' * has}]" for name, kind, has in parameters) + ")"


def compare_classes(key, ours, theirs):
    if not isinstance(ours, type):
        # Where the standard package has a function that makes one, so may we, but not the other way round.
        yield f"{key} is a class there, and {ours!r} here"
        return
    module = key.partition(":")[0]
    for name in public_members(theirs):
        full = f"{key}.{name}"
        if full.partition(":")[2] in INTERNAL.get(module, ()):
            continue
        if not hasattr(ours, name):
            yield f"{full} is missing"
        elif callable(getattr(theirs, name)):
            # From the class itself, so that static methods are what a caller sees.
            owner = next((one for one in theirs.__mro__ if name in vars(one)), theirs)
            if owner.__module__ == theirs.__module__:
                full = f"{module}:{owner.__name__}.{name}"
            yield from compare_callables(full, getattr(ours, name), getattr(theirs, name))


def problems_of(module):
    ours, theirs = pair(module)
    missing = set(getattr(theirs, "__all__", ())) - set(getattr(ours, "__all__", ()))
    for name in sorted(missing):
        if name not in INTERNAL.get(module, ()):
            yield f"{module}.__all__ has no {name}"
    for name in public_names(theirs):
        key = f"{module}:{name}"
        if name in INTERNAL.get(module, ()):
            continue
        if not hasattr(ours, name):
            yield f"{key} is missing"
            continue
        mine, standard = getattr(ours, name), getattr(theirs, name)
        if inspect.isclass(standard):
            yield from compare_classes(key, mine, standard)
        elif callable(standard):
            if not callable(mine):
                yield f"{key} cannot be called"
            else:
                yield from compare_callables(key, mine, standard)
        elif isinstance(standard, int | str | float) and not isinstance(mine, type(standard)):
            yield f"{key} is {mine!r} instead of {standard!r}"


@pytest.mark.parametrize("module", ["", *MODULES], ids=lambda name: name or "package")
def test_names_and_signatures(module):
    assert list(problems_of(module)) == []


@pytest.mark.parametrize("key", ADDED)
def test_what_newer_versions_added_is_there(key):
    module, _, path = key.partition(":")
    thing = importlib.import_module(f"manycore.{module}" if module else "manycore")
    for name in path.split("."):
        thing = getattr(thing, name)
    if ADDED[key]:
        assert ADDED[key] <= set(inspect.signature(thing).parameters)


def test_the_lists_are_true():
    """An internal name that we offer after all is taken off its list, and so is a difference that is none."""
    for key in DIFFERENT:
        module, _, path = key.partition(":")
        things = pair(module)
        for name in path.split("."):
            things = [getattr(thing, name) for thing in things]
        assert shape(things[0]) != shape(things[1]), key
    offered = {
        f"{module}:{name}"
        for module, names in INTERNAL.items()
        for name in names
        if "." not in name and hasattr(pair(module)[0], name)
    }
    assert offered == set()


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver"])
def test_contexts_have_what_the_package_has(kind):
    ours, theirs = (importlib.import_module(name).get_context(kind) for name in ("manycore", "multiprocessing"))
    problems = []
    for name in public_members(type(theirs)):
        if name.startswith("_"):
            continue
        if not hasattr(type(ours), name):
            problems.append(f"{name} is missing")
        elif callable(getattr(theirs, name)) and not isinstance(getattr(theirs, name), type):
            problems += compare_callables(f"context:BaseContext.{name}", getattr(ours, name), getattr(theirs, name))
    assert problems == []


@pytest.mark.parametrize("name", ["ProcessError", "TimeoutError", "AuthenticationError", "BufferTooShort"])
def test_exceptions(name):
    ours, theirs = (getattr(importlib.import_module(package), name) for package in ("manycore", "multiprocessing"))
    assert [base.__name__ for base in ours.__mro__] == [base.__name__ for base in theirs.__mro__]


def test_worker_lost():
    package = importlib.import_module("manycore")
    assert issubclass(package.WorkerLost, package.ProcessError)
    assert "WorkerLost" in package.__all__


# --- docstrings ---

OURS = sorted(
    entry.name.removeprefix("manycore.")
    for entry in pkgutil.walk_packages(importlib.import_module("manycore").__path__, "manycore.")
    if "._" not in entry.name
)


def undocumented(key, thing):
    if inspect.isclass(thing):
        if not thing.__dict__.get("__doc__"):
            yield key
        for name in public_members(thing):
            owner = next((one for one in thing.__mro__ if name in vars(one)), None)
            # What is inherited from outside is documented there; a special method says what Python's documentation says.
            if owner is None or not owner.__module__.startswith("manycore") or name.startswith("__"):
                continue
            member = inspect.getattr_static(owner, name)
            described = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if (callable(described) or isinstance(described, property)) and not inspect.getdoc(getattr(owner, name)):
                yield f"{key}.{name}"
    elif callable(thing) and not inspect.getdoc(thing):
        yield key


@pytest.mark.parametrize("module", ["", *OURS], ids=lambda name: name or "package")
def test_every_public_name_has_a_docstring(module):
    ours = importlib.import_module(f"manycore.{module}" if module else "manycore")
    missing = [] if ours.__doc__ else [module]
    for name in public_names(ours):
        missing += undocumented(f"{module}:{name}", getattr(ours, name))
    assert missing == []
