"""Programs that replace, read and call the parts of a pool: they find what they were written for."""

import functools
import importlib
import itertools
import os
import queue
import threading

import pytest

from support import census, hooks, tasks

KINDS = ("OwnWorkers", "OwnQueues", "OwnFunction", "OwnAll")
every_kind = pytest.mark.parametrize("kind", KINDS)


def module_of(mp):
    return importlib.import_module(f"{mp.__name__}.pool")


def make(mp, ctx, kind, processes=2, path=None, **options):
    return getattr(hooks.kinds(mp, path), kind)(processes, context=ctx, **options)


def check_every_verb(pool):
    squares = [n * n for n in range(30)]
    assert pool.apply(tasks.add, (1,), {"b": 2}) == 3
    assert pool.map(tasks.square, range(30)) == squares
    assert pool.map(tasks.square, iter(range(30)), chunksize=4) == squares
    assert pool.map(tasks.square, []) == []
    assert pool.starmap(tasks.add, [(1, 2), (3, 4)]) == [3, 7]
    assert pool.starmap_async(tasks.add, [(1, 2), (3, 4)], 1).get() == [3, 7]
    assert list(pool.imap(tasks.square, range(30))) == squares
    assert list(pool.imap(tasks.square, iter(range(30)), chunksize=7)) == squares
    assert sorted(pool.imap_unordered(tasks.square, range(30), 4)) == squares
    seen = []
    assert pool.apply_async(tasks.square, (3,), callback=seen.append).get() == 9
    assert pool.map_async(tasks.square, [3], callback=seen.append).get() == [9]
    failing = pool.apply_async(tasks.fail, (3,), error_callback=seen.append)
    with pytest.raises(ValueError) as caught:
        failing.get()
    assert seen == [9, [9], caught.value]
    with pytest.raises(ValueError):
        pool.map(tasks.fail, range(3))
    results = pool.imap(functools.partial(tasks.fail_if, victim=2), range(4))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError):
        next(results)
    assert next(results) == 3


# --- hooked pools ---


@every_kind
def test_every_verb_of_a_hooked_pool(mp, ctx, kind):
    with make(mp, ctx, kind) as pool:
        check_every_verb(pool)
    pool.join()


@every_kind
def test_close_and_join_run_everything(mp, ctx, kind):
    pool = make(mp, ctx, kind)
    result, lazy = pool.map_async(tasks.square, range(500)), pool.imap(tasks.square, range(500))
    pool.close()
    with pytest.raises(ValueError):
        pool.apply(int)
    pool.join()
    assert result.get(0) == list(lazy) == [n * n for n in range(500)]
    assert not any(process.is_alive() for process in pool._pool)


@pytest.mark.parametrize("kind", ["OwnWorkers", "OwnFunction"])
def test_the_workers_are_the_programs_own(mp, ctx, kind, tmp_path):
    path = tmp_path / "ends"
    with make(mp, ctx, kind, path=str(path)) as pool:
        pids = {process.pid for process in pool._pool}
        pool.map(tasks.square, range(20))
        pool.close()
        pool.join()
    assert set(map(int, path.read_text().split())) == pids


@pytest.mark.only("manycore", reason="there a worker in the place of another one is the package's own")
def test_replaced_workers_are_the_programs_own(mp, ctx, tmp_path):
    path = tmp_path / "ends"
    with make(mp, ctx, "OwnWorkers", 1, str(path), maxtasksperchild=1) as pool:
        pids = {pool.apply(os.getpid) for _ in range(3)}
        pool.close()
        pool.join()
    assert len(pids) == 3
    assert pids <= set(map(int, path.read_text().split()))


def test_the_reducers_of_a_queue_are_used(mp, ctx):
    with make(mp, ctx, "OwnQueues") as pool:
        assert pool.apply(tasks.typename, (hooks.Marked(),)) == "str"
        assert pool.map(tasks.typename, [hooks.Marked()] * 3) == ["str"] * 3
    pool.join()


@every_kind
def test_initializer_and_limit_of_tasks(mp, ctx, kind):
    options = {} if kind in ("OwnFunction", "OwnAll") else {"maxtasksperchild": 2}
    with make(mp, ctx, kind, initializer=tasks.remember, initargs=(7,), **options) as pool:
        assert [state["args"] for state in pool.map(tasks.recall, range(10), chunksize=1)] == [(7,)] * 10
    pool.join()


@every_kind
def test_what_does_not_travel(mp, ctx, kind):
    with make(mp, ctx, kind) as pool:
        with pytest.raises(Exception, match="pickle"):
            pool.apply(tasks.length, (threading.Lock(),))
        if kind in ("OwnWorkers", "OwnQueues"):
            with pytest.raises(module_of(mp).MaybeEncodingError):
                pool.apply(tasks.give_lock)
        assert pool.apply(tasks.square, (3,)) == 9
    pool.join()


def test_the_traceback_of_a_worker(mp, ctx):
    with make(mp, ctx, "OwnWorkers") as pool:
        with pytest.raises(ValueError) as caught:
            pool.apply(tasks.fail, (3,))
        assert isinstance(caught.value.__cause__, module_of(mp).RemoteTraceback)
        assert "tasks.py" in str(caught.value.__cause__)
    pool.join()


@pytest.mark.methods("fork")
def test_a_replaced_worker_function(mp, ctx, monkeypatch, tmp_path):
    """As profilers do it: the name in the module, around the function that was there."""
    module, path = module_of(mp), str(tmp_path / "ends")
    original = module.worker

    def profiled(*args):
        original(*args)
        hooks.note(path)

    monkeypatch.setattr(module, "worker", profiled)
    with ctx.Pool(2) as pool:
        pids = {process.pid for process in pool._pool}
        check_every_verb(pool)
        pool.close()
        pool.join()
    with open(path) as file:
        assert set(map(int, file.read().split())) == pids
    monkeypatch.undo()
    with ctx.Pool(2) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
    pool.join()
    with open(path) as file:
        assert set(map(int, file.read().split())) == pids


@pytest.mark.methods("fork")
def test_a_replaced_part_of_the_class_itself(mp, ctx, monkeypatch):
    started = []
    original = module_of(mp).Pool._repopulate_pool_static

    def counted(*args):
        started.append(args[2])
        return original(*args)

    monkeypatch.setattr(module_of(mp).Pool, "_repopulate_pool_static", staticmethod(counted))
    with ctx.Pool(2) as pool:
        assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    pool.join()
    assert started == [2]


def test_a_pool_of_threads_with_queues_of_its_own(mp):
    class Own(module_of(mp).ThreadPool):
        def _setup_queues(self):
            self._inqueue, self._outqueue = queue.Queue(), queue.Queue()
            self._quick_put, self._quick_get = self._inqueue.put, self._outqueue.get

    with Own(2) as pool:
        check_every_verb(pool)
        assert pool.apply(threading.current_thread) is not threading.current_thread()
    pool.join()
    pool = Own(2)
    result = pool.map_async(tasks.square, range(50))
    pool.close()
    pool.join()
    assert result.get(0) == [n * n for n in range(50)]


@pytest.mark.methods("fork")
def test_a_pool_that_a_subclass_sets_up_alone(mp, ctx):
    """From before there was a better way: everything that `__init__` does, with the parts it does it with."""
    module = module_of(mp)

    class Alone(module.Pool):
        def __init__(self, processes, context):
            self._pool, self._state, self._ctx, self._processes = [], module.INIT, context, processes
            self._initializer, self._initargs, self._maxtasksperchild = None, (), None
            self._setup_queues()
            self._taskqueue = queue.SimpleQueue()
            self._change_notifier = self._ctx.SimpleQueue()
            self._cache = module._PoolCache(notifier=self._change_notifier)
            self._repopulate_pool()
            common = self._inqueue, self._outqueue
            workers = (self._cache, self._taskqueue, self._ctx, self.Process, self._processes, self._pool, *common)
            workers += (None, (), None, True, self._get_sentinels(), self._change_notifier)
            self._worker_handler = self.start(module.Pool._handle_workers, *workers)
            given = self._taskqueue, self._quick_put, self._outqueue, self._pool, self._cache
            self._task_handler = self.start(module.Pool._handle_tasks, *given)
            self._result_handler = self.start(module.Pool._handle_results, self._outqueue, self._quick_get, self._cache)
            threads = self._worker_handler, self._task_handler, self._result_handler
            self._terminate = lambda: self._terminate_pool(
                self._taskqueue, *common, self._pool, self._change_notifier, *threads, self._cache
            )
            self._state = module.RUN

        @staticmethod
        def start(target, *args):
            thread = threading.Thread(target=target, args=args, daemon=True)
            thread._state = module.RUN
            thread.start()
            return thread

    with Alone(2, ctx) as pool:
        check_every_verb(pool)
        pool.close()
        pool.join()
    with Alone(2, ctx) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
    pool.join()


def test_the_worker_function_with_queues_of_a_programs_own(mp, ctx):
    """Nothing comes but answers, in the standard package's form."""
    given, answers = ctx.SimpleQueue(), ctx.SimpleQueue()
    process = ctx.Process(target=module_of(mp).worker, args=(given, answers, None, (), 2, True))
    process.start()
    given.put((5, 0, tasks.square, (3,), {}))
    given.put((5, 1, tasks.fail, (3,), {}))
    assert answers.get() == (5, 0, (True, 9))
    job, place, (succeeded, error) = answers.get()
    assert (job, place, succeeded, type(error)) == (5, 1, False, ValueError)
    process.join()
    assert process.exitcode == 0
    given.close()
    answers.close()


# --- ordinary pools, of which programs use the parts ---


@pytest.fixture(params=["ordinary", "hooked", "threads"])
def pool(request, mp):
    """A pool of each kind that a recipe may meet."""
    module = module_of(mp)
    if request.param == "hooked":
        pool = hooks.kinds(mp).OwnWorkers(2)
    else:
        pool = module.ThreadPool(2) if request.param == "threads" else mp.Pool(2)
    with pool:
        yield pool
    pool.join()


@pytest.mark.parametrize("chunksize", [1, 7])
def test_a_lazy_starmap_by_the_parts_of_a_pool(pool, chunksize):
    pairs = [(n, 2 * n) for n in range(40)]
    assert list(hooks.istarmap(pool, tasks.add, pairs, chunksize)) == [3 * n for n in range(40)]
    assert list(hooks.istarmap(pool, tasks.add, iter(pairs), chunksize)) == [3 * n for n in range(40)]
    assert list(hooks.istarmap(pool, tasks.add, [])) == []
    assert pool.map(tasks.square, range(3)) == [0, 1, 4]


def test_errors_in_a_lazy_starmap(pool):
    with pytest.raises(ValueError):
        list(hooks.istarmap(pool, tasks.fail, [(1,)]))

    def broken():
        yield 1, 2
        raise LookupError("no more")

    results = hooks.istarmap(pool, tasks.add, broken())
    assert next(results) == 3
    with pytest.raises(LookupError, match="no more"):
        next(results)
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_lazy_starmap_is_run_by_close_and_join(pool):
    results = hooks.istarmap(pool, tasks.add, ((n, n) for n in range(3000)))
    pool.close()
    pool.join()
    assert list(results) == [2 * n for n in range(3000)]


def test_terminate_ends_an_endless_lazy_starmap(pool):
    results = hooks.istarmap(pool, tasks.add, ((n, n) for n in itertools.count()))
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    pool.terminate()
    pool.join()


@pytest.mark.only("manycore", reason="there whoever waits for a result of a terminated pool waits for ever")
def test_terminate_answers_a_lazy_starmap(pool, gate):
    results = hooks.istarmap(pool, tasks.wait_at, [(gate,)] * 4)
    gate.arrivals(2)
    pool.terminate()
    error = importlib.import_module("manycore").ProcessError
    with pytest.raises(error):
        next(results)
    gate.open()
    pool.join()


def test_a_mapper_of_a_programs_own(pool):
    result = pool._map_async(tasks.add, [(1, 2), (3, 4), (5, 6)], module_of_pool(pool).starmapstar, 2)
    assert result.get() == [3, 7, 11]
    assert pool._map_async(tasks.square, range(10), hooked_mapper, 3).get() == [n * n + 1 for n in range(10)]


def module_of_pool(pool):
    return importlib.import_module(f"{type(pool).imap.__globals__['__package__']}.pool")


def hooked_mapper(args):
    function, items = args
    return [function(item) + 1 for item in items]


def test_results_made_by_hand(pool):
    module, seen = module_of_pool(pool), []
    single = module.ApplyResult(pool, seen.append, None)
    several = module.MapResult(pool, 2, 3, seen.append, None)
    lazy, unordered = module.IMapIterator(pool), module.IMapUnorderedIterator(pool)
    assert len(pool._cache) == 4
    assert {single._job, several._job, lazy._job, unordered._job} == set(pool._cache)
    assert several._number_left * several._chunksize == 4
    several._set(1, (True, ["c"]))
    single._set(0, (True, 5))
    several._set(0, (True, ["a", "b"]))
    assert (single.get(0), several.get(0), seen) == (5, ["a", "b", "c"], [5, ["a", "b", "c"]])
    for results in (lazy, unordered):
        results._set(1, (True, "b"))
        results._set(0, (False, ValueError("a")))
        results._set_length(2)
    with pytest.raises(ValueError, match="a"):
        next(lazy)
    assert [next(lazy), next(unordered)] == ["b", "b"]
    with pytest.raises(ValueError, match="a"):
        next(unordered)
    assert list(lazy) == list(unordered) == []
    assert not pool._cache


def test_kinds_of_results(pool):
    module = module_of_pool(pool)
    call, several = pool.apply_async(tasks.square, (3,)), pool.map_async(tasks.square, [3])
    assert isinstance(call, module.ApplyResult) and isinstance(several, module.AsyncResult)
    assert isinstance(several, module.MapResult) and not isinstance(call, module.MapResult)
    lazy = pool.imap(tasks.square, [3])
    assert isinstance(lazy, module.IMapIterator) and not isinstance(lazy, module.ApplyResult)
    assert not isinstance(5, module.ApplyResult)
    assert (call.get(), several.get(), list(lazy)) == (9, [9], [9])


@pytest.mark.parametrize("callbacks", [False, True], ids=["plain", "callbacks"])
def test_how_much_is_open(pool, gate, callbacks):
    """Programs wait until the table of open jobs is empty, or short enough; and look at what waits for workers."""
    on = {"callback": lambda _: None} if callbacks else {}
    held = [pool.apply_async(tasks.wait_at, (gate, n), **on) for n in range(2)]
    gate.arrivals(2)
    more = [pool.apply_async(tasks.square, (n,), **on) for n in range(10)]
    assert len(pool._cache) == 12
    assert pool._cache
    assert not pool._taskqueue.empty() or not pool._inqueue.empty()
    gate.open()
    assert [result.get() for result in held + more] == [0, 1, *(n * n for n in range(10))]
    assert census.eventually(lambda: not pool._cache)
    assert pool._taskqueue.qsize() == 0
    assert pool._inqueue.empty()


def test_how_much_of_a_map_is_left(pool, gate):
    result = pool.map_async(functools.partial(tasks.wait_if, gate, waits=4), range(10), chunksize=1)
    gate.arrivals()
    assert census.eventually(lambda: result._number_left * result._chunksize == 1)
    assert len(pool._cache) == 1
    gate.open()
    assert result.get() == list(range(10))
    assert result._number_left == 0
    assert result._success


def test_overridden_verbs_are_used(mp):
    used = []

    class Logging(module_of(mp).Pool):
        def apply_async(self, func, args=(), kwds=None, callback=None, error_callback=None):
            used.append("apply_async")
            return super().apply_async(func, args, kwds or {}, callback, error_callback)

        def _map_async(self, func, iterable, mapper, chunksize=None, callback=None, error_callback=None):
            used.append("_map_async")
            return super()._map_async(func, iterable, mapper, chunksize, callback, error_callback)

    with Logging(2) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
        assert pool.map(tasks.square, [3]) == [9]
        assert pool.starmap(tasks.add, [(1, 2)]) == [3]
        assert pool.map_async(tasks.square, [3]).get() == [9]
        assert list(pool.imap(tasks.square, [3])) == [9]
    pool.join()
    assert used == ["apply_async", "_map_async", "_map_async", "_map_async"]


@pytest.mark.only("manycore", reason="the standard package has one kind of pool")
def test_an_ordinary_pool_stays_the_engines(mp, script):
    """Nothing of a hooked pool is loaded for it, nor does reading its parts make one of it."""
    kind = hooks.kinds(mp).OwnWorkers
    with mp.Pool(1) as pool, kind(1) as hooked:
        assert len(pool._cache) == 0
        assert type(pool._core) is importlib.import_module("manycore._engine").Core
        assert type(hooked._core) is not type(pool._core)
    pool.join()
    hooked.join()
    program = script("""
        def main():
            with mp.Pool(1) as pool:
                pool.map(abs, [1])
            pool.join()
            print(*sys.modules)
    """)
    loaded = program.read_line()
    assert "manycore._pool_parts" in loaded
    assert "_pool_hooks" not in loaded
    assert "_pool_work" not in loaded
    assert program.finish() == 0


# --- results that a program has replaced ---


def own_class(module, name, calls):
    class Own(getattr(module, name)):
        def _set(self, *args):
            calls.append(name)
            super()._set(*args)

    return Own


@pytest.mark.parametrize("pool_of", ["Pool", "ThreadPool"])
@pytest.mark.parametrize("name", ["ApplyResult", "MapResult", "IMapIterator", "IMapUnorderedIterator"])
def test_a_replaced_class_of_results(mp, monkeypatch, name, pool_of):
    module, calls = module_of(mp), []
    monkeypatch.setattr(module, name, own_class(module, name, calls))
    with getattr(module, pool_of)(2) as pool:
        check_every_verb(pool)
        results = {
            "ApplyResult": lambda: pool.apply_async(tasks.square, (2,)),
            "MapResult": lambda: pool.map_async(tasks.square, [2]),
            "IMapIterator": lambda: pool.imap(tasks.square, [2]),
            "IMapUnorderedIterator": lambda: pool.imap_unordered(tasks.square, [2]),
        }
        assert isinstance(results[name](), getattr(module, name))
    pool.join()
    assert name in calls


@pytest.mark.parametrize("pool_of", ["Pool", "ThreadPool"])
@pytest.mark.parametrize(
    "name, method, call",
    [
        ("IMapIterator", "next", lambda pool: pool.imap(tasks.square, [3]).next()),
        ("IMapIterator", "__next__", lambda pool: next(pool.imap(tasks.square, [3]))),
        ("IMapUnorderedIterator", "_set", lambda pool: next(pool.imap_unordered(tasks.square, [3]))),
        ("ApplyResult", "get", lambda pool: pool.apply_async(tasks.square, (3,)).get()),
        ("ApplyResult", "wait", lambda pool: pool.apply(tasks.square, (3,))),
        ("MapResult", "_set", lambda pool: pool.map(tasks.square, [3])[0]),
    ],
)
def test_a_replaced_method_of_results(mp, monkeypatch, name, method, call, pool_of):
    """As in the recipe by which a wait can be interrupted: `next` gets a time limit that never ends."""
    module, calls = module_of(mp), []
    own = getattr(getattr(module, name), method)

    def replacement(self, *args, **kwargs):
        calls.append(method)
        return own(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(getattr(module, name), method, replacement)
        with getattr(module, pool_of)(2) as pool:
            assert call(pool) == 9
            assert calls
        pool.join()
    with getattr(module, pool_of)(1) as pool:
        assert call(pool) == 9
    pool.join()


@pytest.mark.only("manycore", reason="there every pool is one")
def test_a_pool_after_the_program_has_put_everything_back(mp, monkeypatch):
    module = module_of(mp)
    with monkeypatch.context() as patch:
        patch.setattr(module.IMapIterator, "next", lambda self: None)
        patch.setattr(module, "MapResult", own_class(module, "MapResult", []))
        with module.Pool(1) as pool:
            assert hasattr(pool, "_task_handler")
        pool.join()
    with module.Pool(1) as pool:
        assert not hasattr(pool, "_task_handler")
    pool.join()


def test_a_context_with_queues_of_its_own(mp, ctx):
    made = []

    class Own(type(ctx)):
        def SimpleQueue(self):
            made.append(self)
            return super().SimpleQueue()

        def get_context(self, method=None):
            return self

    with module_of(mp).Pool(2, context=Own()) as pool:
        check_every_verb(pool)
    pool.join()
    assert len(made) >= 2
