"""Programs that put a pickler of their own into the place of `ForkingPickler`: what travels is pickled by it."""

import importlib
import io
import pickle

import pytest

from support import tasks


class Thing:
    def __init__(self, value):
        self.value = value


def value_of(thing):
    return thing.value


def thing_of(value):
    return Thing(value)


def module_of(mp, name):
    return importlib.import_module(f"{mp.__name__}.{name}")


def marked(mp):
    """A pickler whose pickles nobody else can read, and that adds a hundred to what a `Thing` holds."""

    class Pickler(module_of(mp, "reduction").ForkingPickler):
        def __init__(self, *args):
            super().__init__(*args)
            self.dispatch_table[Thing] = lambda thing: (Thing, (thing.value + 100,))

        @classmethod
        def dumps(cls, obj, protocol=None):
            buffer = io.BytesIO(b"mark")
            buffer.seek(4)
            cls(buffer, protocol).dump(obj)
            return buffer.getvalue()

        @staticmethod
        def loads(data, *args, **kwargs):
            assert bytes(data[:4]) == b"mark"
            return pickle.loads(data[4:], *args, **kwargs)

    return Pickler


@pytest.fixture(params=["in the module of queues", "its methods", "as in a well-known recipe"])
def replaced(request, mp, monkeypatch):
    """The ways in which programs replace the pickler."""
    pickler, reduction, queues = marked(mp), module_of(mp, "reduction"), module_of(mp, "queues")
    if request.param == "its methods":
        own = reduction.ForkingPickler
        monkeypatch.setattr(own, "dumps", lambda obj, protocol=None: pickler.dumps(obj, protocol))
        monkeypatch.setattr(own, "loads", pickler.loads)
        return request.param
    monkeypatch.setattr(queues, "_ForkingPickler", pickler)
    if request.param == "as in a well-known recipe":
        monkeypatch.setattr(reduction, "ForkingPickler", pickler)
        monkeypatch.setattr(module_of(mp, "connection"), "_ForkingPickler", pickler)
    return request.param


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_queues(mp, kind):
    queue = getattr(mp.get_context("fork"), kind)()
    for value in (1, "text", [1, {"a": (2, None)}], b"x" * 30_000):
        queue.put(value)
        assert queue.get() == value
    queue.put(Thing(5))
    assert queue.get().value == 105
    queue.close()


@pytest.mark.methods("fork")
def test_pools(mp, ctx, replaced):
    if replaced == "in the module of queues" and mp.__name__ == "multiprocessing":
        pytest.skip("there a pool writes with the pickler of connections, and reads with that of queues")
    with ctx.Pool(2) as pool:
        assert pool.apply(value_of, (Thing(1),)) == 101
        assert pool.map(value_of, [Thing(n) for n in range(5)]) == [100, 101, 102, 103, 104]
        assert [thing.value for thing in pool.imap(thing_of, range(3))] == [100, 101, 102]
        assert pool.apply_async(thing_of, (1,)).get().value == 101
        with pytest.raises(ValueError):
            pool.apply(tasks.fail, (1,))
    pool.join()


@pytest.mark.usefixtures("replaced")
def test_what_it_cannot_pickle(mp):
    queue = mp.get_context("fork").SimpleQueue()
    with pytest.raises(TypeError):
        queue.put(n for n in range(3))
    queue.put(1)
    assert queue.get() == 1
    queue.close()


def test_it_is_put_back(mp, monkeypatch):
    queue = mp.get_context("fork").SimpleQueue()
    with monkeypatch.context() as patch:
        patch.setattr(module_of(mp, "queues"), "_ForkingPickler", marked(mp))
        queue.put(Thing(5))
        assert queue.get().value == 105
    queue.put(Thing(5))
    assert queue.get().value == 5
    queue.close()


REDUCER = """
import io
reduction = __import__("{package}.reduction").reduction

class Pickler(reduction.ForkingPickler):
    def __init__(self, *args):
        super().__init__(*args)
        self.dispatch_table[Thing] = lambda thing: (Thing, (thing.value + 100,))
    @classmethod
    def dumps(cls, obj, protocol=None):
        buffer = io.BytesIO()
        cls(buffer, protocol).dump(obj)
        return buffer.getvalue()

class Reducer(reduction.AbstractReducer):
    ForkingPickler = Pickler
    register = Pickler.register
    def dump(self, obj, file, protocol=None):
        Pickler(file, protocol).dump(obj)

class Thing:
    def __init__(self, value):
        self.value = value

def value_of(thing):
    return thing.value

def tell(thing, end):
    end.send(thing.value)

def main():
    ctx = mp.get_context("{method}")
    ctx.reducer = Reducer()
    queue = ctx.SimpleQueue()
    queue.put(Thing(1))
    print(queue.get().value)
    with ctx.Pool(1) as pool:
        print(pool.apply(value_of, (Thing(2),)))
    end, other = ctx.Pipe()
    process = ctx.Process(target=tell, args=(Thing(3), other))
    process.start()
    print(end.recv())
    process.join()
"""


@pytest.mark.only(
    "manycore", reason="there a reducer that is an object can pickle no connection, nor start a fork server"
)
@pytest.mark.methods("spawn", "forkserver")
def test_the_reducer_of_a_context(mp, ctx, script):
    program = script(REDUCER.format(package=mp.__name__, method=ctx.get_start_method()))
    assert program.finish() == 0, program.errors.decode()
    assert program.output.split() == [b"101", b"102", b"103"]


def reading_pickler(mp):
    """A pickler that marks what it reads, and writes what everybody can read."""

    class Reading(module_of(mp, "reduction").ForkingPickler):
        @staticmethod
        def loads(data, *args, **kwargs):
            return "read", pickle.loads(data, *args, **kwargs)

    return Reading


def test_the_reader_alone_has_replaced_it(mp, monkeypatch):
    queue, other = mp.get_context("fork").SimpleQueue(), mp.get_context("fork").Queue()
    queue.put([1])
    other.put([2])
    with monkeypatch.context() as patch:
        patch.setattr(module_of(mp, "queues"), "_ForkingPickler", reading_pickler(mp))
        assert queue.get() == ("read", [1])
        assert other.get() == ("read", [2])
        queue.put(3)
        assert queue.get() == ("read", 3)
        other.put(4)
        # What a feeder has not pickled yet, it would pickle afterwards.
        other._reader.poll(30)
    assert other.get() == 4
    queue.close()


def test_the_bytes_in_a_queue(mp, monkeypatch):
    pickler = marked(mp)
    monkeypatch.setattr(module_of(mp, "queues"), "_ForkingPickler", pickler)
    queue = mp.get_context("fork").SimpleQueue()
    queue.put({"a": 1})
    assert pickler.loads(queue._reader.recv_bytes()) == {"a": 1}
    queue._writer.send_bytes(pickler.dumps([2]))
    assert queue.get() == [2]
    queue.close()


@pytest.mark.parametrize("answer", [5, None, "text"])
def test_what_a_pickler_must_not_answer(mp, monkeypatch, answer):
    class Wrong(module_of(mp, "reduction").ForkingPickler):
        @classmethod
        def dumps(cls, obj, protocol=None):
            return answer

    queue = mp.get_context("fork").SimpleQueue()
    with monkeypatch.context() as patch:
        patch.setattr(module_of(mp, "queues"), "_ForkingPickler", Wrong)
        with pytest.raises(TypeError):
            queue.put(1)
    queue.put(2)
    assert queue.get() == 2
    queue.close()


@pytest.mark.only("manycore", reason="there the queues have taken their pickler already")
def test_a_reducer_that_only_dumps(mp, monkeypatch):
    class Reducer:
        dump = staticmethod(module_of(mp, "reduction").dump)

    context = module_of(mp, "context")
    monkeypatch.setattr(context, "reduction", Reducer(), raising=False)
    context._default_context.reducer = Reducer()
    queue = mp.get_context("fork").Queue()
    queue.put([1])
    assert queue.get() == [1]
    queue.close()
