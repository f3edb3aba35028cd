"""Every name of the installed standard package, module by module, and what newer ones have added.

Whatever can be imported from there is here, or listed with the reason. Of what is public, the signatures are alike, too: of what
a module lists in `__all__`, and what it defines without an underscore, since other libraries import both.
"""

import functools
import importlib
import importlib.util
import inspect
import multiprocessing
import pkgutil
import sys

import pytest

WINDOWS = {"popen_spawn_win32"}
MODULES = sorted(
    entry.name.removeprefix("multiprocessing.")
    for entry in pkgutil.walk_packages(multiprocessing.__path__, "multiprocessing.")
    if entry.name.rpartition(".")[2] not in WINDOWS
)


C_HALF = "the standard package's half in C, which nothing of ours loads"
NO_LISTENER = "our fork server has one socket, to its parent: no address, no key, no numbers that are read from it"
OTHER_PRELOAD = "how the fork server there imports modules beforehand; ours does that in a method of its server"
OTHER_HEAP = "how the heap there keeps its blocks; ours keeps them otherwise"
OTHER_TRACKER = "how the tracker there is told of names; ours reads them in shared memory"
NO_NAME = "a semaphore of ours has no name that could be removed"
PICKLED_BY_REDUCE = (
    "locks are unpickled by a function, since they are made in shared memory; a subclass's own is called"
)
EXEC = "an accident: the class there is made by exec()"
OTHER_PROXIES = "proxies there are numbered; ours are counted by their connections"
SOCKET_PATHS = "how the folder for sockets is chosen there; nothing of ours has a socket in a folder"

#: Every importable name that there is and here is not: {module: {name or Class.member: why}}. A class's name stands for its
#: subclasses. docs/differences.md tells the users.
ABSENT = {
    "connection": {"_multiprocessing": C_HALF},
    "context": dict.fromkeys(
        ("DefaultContext._default_context", "_get_platform_default_context"),
        "what is the default depends on no file here",
    ),
    "forkserver": dict.fromkeys(
        (
            "ForkServer.connect_to_new_process",
            "SIGNED_STRUCT",
            "_AUTHKEY_LEN",
            "_serve_one",
            "connect_to_new_process",
            "read_signed",
            "write_signed",
        ),
        NO_LISTENER,
    )
    | dict.fromkeys(("_handle_import_error", "_handle_preload"), OTHER_PRELOAD),
    "heap": dict.fromkeys(
        (
            "Arena._choose_dir",
            "Arena._dir_candidates",
            "Heap._absorb",
            "Heap._add_free_block",
            "Heap._discard_arena",
            "Heap._malloc",
            "Heap._remove_allocated_block",
            "Heap._roundup",
        ),
        OTHER_HEAP,
    ),
    "managers": {
        **dict.fromkeys(
            (
                "ArrayProxy.__builtins__",
                "BaseListProxy.__builtins__",
                "BasePoolProxy.__builtins__",
                "DictProxy.__builtins__",
                "PoolProxy.__builtins__",
                "_BaseDictProxy.__builtins__",
                "_BaseSetProxy.__builtins__",
            ),
            EXEC,
        ),
        "BaseProxy._next_serial": OTHER_PROXIES,
        "SharedMemoryManager.__del__": "what it does is done by the finalizer",
        "_BaseSetProxy.__class_getitem__": "SetProxy has it",
    },
    "queues": {"_multiprocessing": C_HALF},
    "reduction": {
        "ACKNOWLEDGE": "says whether descriptors are acknowledged; ours are as in the version of the interpreter"
    },
    "resource_tracker": {
        "_multiprocessing": C_HALF,
        "_posixshmem": C_HALF,
        **dict.fromkeys(
            (
                "ResourceTracker.__del__",
                "ResourceTracker._after_fork_in_child",
                "ResourceTracker._ensure_running_and_write",
                "ResourceTracker._launch",
                "ResourceTracker._make_probe_message",
                "ResourceTracker._reentrant_call_error",
                "ResourceTracker._stop_locked",
                "ResourceTracker._teardown_dead_process",
                "ResourceTracker._write",
                "_decode_message",
                "_fork_intent",
                "cleanup_noop",
            ),
            OTHER_TRACKER,
        ),
    },
    "shared_memory": {"_posixshmem": C_HALF},
    "sharedctypes": {"template": "the text that the classes there are made of"},
    "synchronize": {
        "_multiprocessing": C_HALF,
        "sem_unlink": NO_NAME,
        "SemLock._cleanup": NO_NAME,
        "SemLock.__setstate__": PICKLED_BY_REDUCE,
    },
    "util": dict.fromkeys(
        (
            "_SUN_PATH_LEN_RESERVED",
            "_SUN_PATH_MAX",
            "_TMPPYMP_PREFIX",
            "_TMPPYMP_PREFIXLEN",
            "_TMPPYMP_SUFFIXLEN",
            "_TMPSOCK_PREFIX",
            "_TMPSOCK_PREFIXLEN",
            "_TMPSOCK_SUFFIXLEN",
            "_get_base_temp_dir",
            "_has_writeable_tempdir",
        ),
        SOCKET_PATHS,
    ),
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
    "spawn:_main": "as spawn_main",
    "spawn:spawn_main": "the command line of a child: a memory file, and a lifeline instead of two numbers",
    "util:spawnv_passfds": "takes signals to block, too",
}
if sys.version_info < (3, 14):
    DIFFERENT["context:DefaultContext.__init__"] = "has a default, as there from CPython 3.14 on"

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


#: What ours can be told beyond the newest standard package: by keyword alone, so no program's call changes its meaning.
BEYOND = {"task_timeout", "memory_limit", "max_worker_rss", "finalizer"}


def is_beyond(key, name, kind):
    of_pools = key.split(":")[-1].startswith(("Pool", "ThreadPool", "BaseContext.Pool", "DefaultContext.Pool"))
    return of_pools and ((kind == "VAR_KEYWORD" and name == "options") or (kind == "KEYWORD_ONLY" and name in BEYOND))


def compare_callables(key, ours, theirs):
    mine, standard = shape(ours), shape(theirs)
    if standard is None or key in DIFFERENT:
        return
    more = ADDED.get(key, set())
    known = {name for name, _, _ in standard}
    if mine is not None:
        mine = [one for one in mine if one[0] not in more - known and not is_beyond(key, *one[:2])]
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
        if not hasattr(ours, name):
            continue
        if callable(getattr(theirs, name)):
            # From the class itself, so that static methods are what a caller sees.
            owner = next((one for one in theirs.__mro__ if name in vars(one)), theirs)
            if owner.__module__ == theirs.__module__:
                full = f"{module}:{owner.__name__}.{name}"
            yield from compare_callables(full, getattr(ours, name), getattr(theirs, name))


def problems_of(module):
    ours, theirs = pair(module)
    missing = set(getattr(theirs, "__all__", ())) - set(getattr(ours, "__all__", ()))
    for name in sorted(missing):
        if not is_listed(module, name):
            yield f"{module}.__all__ has no {name}"
    for name in public_names(theirs):
        key = f"{module}:{name}"
        if not hasattr(ours, name):
            # That it is missing is the matter of `missing_names`.
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


def members(kind):
    """Every attribute of a class but those that its being a class gives it."""
    return set(dir(kind)) - {"__dict__", "__module__", "__weakref__", "__firstlineno__", "__static_attributes__"}


def missing_names(module):
    """Everything that can be imported from a module there, or be found in a class of it, and cannot be here."""
    ours, theirs = pair(module)
    for name, thing in vars(theirs).items():
        # A submodule is an attribute of its package as soon as somebody has imported it.
        if (name.startswith("__") and name.endswith("__")) or name in MODULES:
            continue
        if not hasattr(ours, name):
            yield name
        elif inspect.isclass(thing) and thing.__module__ == theirs.__name__:
            for member in sorted(members(thing) - members(getattr(ours, name))):
                if not hasattr(getattr(ours, name), member):
                    yield f"{name}.{member}"


def is_listed(module, name):
    owner, _, member = name.rpartition(".")
    kinds = getattr(pair(module)[1], owner).__mro__ if owner else ()
    names = {name, *(f"{kind.__name__}.{member}" for kind in kinds)}
    return not names.isdisjoint(ABSENT.get(module, ()))


@pytest.mark.parametrize("module", ["", *MODULES], ids=lambda name: name or "package")
def test_every_importable_name(module):
    """Programs import more than what is public: whatever is not here is listed, with the reason."""
    assert [name for name in missing_names(module) if not is_listed(module, name)] == []


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
    offered = set()
    for module, names in ABSENT.items():
        ours = pair(module)[0]
        for name in names:
            owner, _, member = name.rpartition(".")
            thing = getattr(ours, owner, None) if owner else ours
            if thing is not None and hasattr(thing, member):
                offered.add(f"{module}:{name}")
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


def test_what_a_module_there_has_imported(mp):
    """Programs take it from there, and a name that is nowhere is an error as ever."""
    pool, connection = (importlib.import_module(f"{mp.__name__}.{name}") for name in ("pool", "connection"))
    assert pool.threading is importlib.import_module("threading")
    assert connection._WaitSelector is importlib.import_module("selectors").PollSelector
    assert not connection._check_timeout(connection._init_timeout(1000))
    with pytest.raises(AttributeError, match="no_such_name"):
        connection.no_such_name  # noqa: B018


def test_a_reducer_of_callables(mp):
    reduction = importlib.import_module(f"{mp.__name__}.reduction")
    function, arguments = reduction._reduce_method_descriptor(list.append)
    assert function(*arguments) is list.append
    example = reduction._C()
    function, arguments = reduction._reduce_method(example.f)
    assert function(*arguments) == example.f
    function, arguments = reduction._reduce_partial(functools.partial(int, base=2))
    assert function(*arguments)("101") == 5


def test_the_names_of_exit_codes(mp):
    names = importlib.import_module(f"{mp.__name__}.process")._exitcode_to_name
    assert names[-9] == "-SIGKILL"
    assert names.get(-9, 1) == "-SIGKILL"
    assert names.get(3, 3) == 3


def test_the_pool_offers_the_exception_of_a_timeout(mp):
    pool = importlib.import_module(f"{mp.__name__}.pool")
    assert pool.TimeoutError is mp.TimeoutError


def test_worker_lost():
    package = importlib.import_module("manycore")
    assert issubclass(package.WorkerLost, package.ProcessError)
    assert "WorkerLost" in package.__all__


# --- docstrings ---

OURS = sorted(
    entry.name.removeprefix("manycore.")
    for entry in pkgutil.walk_packages(importlib.import_module("manycore").__path__, "manycore.")
    if "._" not in entry.name and entry.name.rpartition(".")[2] not in WINDOWS
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
