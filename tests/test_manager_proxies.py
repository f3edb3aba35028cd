"""What a proxy knows of the types of its manager, wherever it has gone: its methods make further proxies."""

import gc
import importlib
import pickle

import pytest

from support import census

OURS = pytest.mark.only("manycore", reason="there a proxy that has travelled makes no further proxies (gh-99595)")


class Leaf:
    def __init__(self, number=0):
        self.number = number

    def add(self, n):
        self.number += n
        return self.number

    def secret(self):
        return "secret"


class Branch:
    def __init__(self):
        self.leaves = [Leaf(n) for n in range(3)]

    def leaf(self, n):
        return self.leaves[n]

    def numbers(self):
        return iter([leaf.number for leaf in self.leaves])

    def itself(self):
        return self


class Tree:
    def __init__(self):
        self.root = Branch()

    def branch(self):
        return self.root


def make_types(package):
    """The managers of one package; found by name in every process, so that their parts can be pickled."""
    managers = importlib.import_module(f"{package}.managers")

    class LeafProxy(managers.BaseProxy):
        _exposed_ = ("add",)

        def add(self, n):
            return self._callmethod("add", (n,))

        def twice(self, n):
            self._callmethod("add", (n,))
            return self._callmethod("add", (n,))

    LeafProxy.__qualname__ = f"LeafProxy_{package}"

    class Manager(managers.SyncManager):
        pass

    Manager.__qualname__ = f"Manager_{package}"
    Manager.register("Tree", Tree, method_to_typeid={"branch": "Branch"})
    Manager.register(
        "Branch", method_to_typeid={"leaf": "Leaf", "numbers": "Iterator", "itself": "Branch"}, create_method=False
    )
    Manager.register("Leaf", proxytype=LeafProxy, create_method=False)
    Manager.register("Few", Branch, exposed=("leaf",), method_to_typeid={"leaf": "Plain"})
    Manager.register("Plain", exposed=("secret",), create_method=False)
    return Manager, LeafProxy


Manager_manycore, LeafProxy_manycore = make_types("manycore")
Manager_multiprocessing, LeafProxy_multiprocessing = make_types("multiprocessing")


def manager_of(mp):
    return globals()[f"Manager_{mp.__name__}"]


def climb(tree):
    """Use everything that can be reached, and say what was found."""
    branch = tree.branch()
    leaf = branch.leaf(1)
    return [
        leaf.twice(2),
        type(leaf).__name__,
        hasattr(leaf, "secret"),
        list(branch.numbers()),
        branch.itself().itself().leaf(2).add(0),
        type(branch).__name__,
    ]


FOUND = [5, "LeafProxy", False, [0, 5, 2], 2, "AutoProxy[Branch]"]


def climb_and_tell(tree, results):
    results.put(climb(tree))


def climb_from_a_queue(q, results):
    results.put(climb(q.get()))


def hand_on(package, tree, results):
    """As `climb_and_tell`, one process further."""
    context = importlib.import_module(package).get_context("fork")
    child = context.Process(target=climb_and_tell, args=(tree, results))
    child.start()
    child.join()


def test_where_its_manager_is(mp):
    with manager_of(mp)(ctx=mp.get_context("fork")) as manager:
        tree = manager.Tree()
        assert climb(tree) == FOUND
        del tree
        gc.collect()
    manager.join()


@OURS
def test_in_the_arguments_of_a_process(ctx, mp):
    with manager_of(mp)(ctx=ctx) as manager:
        tree, results = manager.Tree(), ctx.SimpleQueue()
        child = ctx.Process(target=climb_and_tell, args=(tree, results))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert results.get() == FOUND
        del tree, child
        gc.collect()
        assert census.eventually(lambda: manager._number_of_objects() == 0)
    manager.join()


@OURS
def test_two_processes_further(ctx, mp):
    with manager_of(mp)(ctx=ctx) as manager:
        tree, results = manager.Tree(), ctx.SimpleQueue()
        child = ctx.Process(target=hand_on, args=(mp.__name__, tree, results))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert results.get() == FOUND
    manager.join()


@OURS
def test_through_a_queue(ctx, mp):
    with manager_of(mp)(ctx=ctx) as manager:
        q, results = ctx.SimpleQueue(), ctx.SimpleQueue()
        child = ctx.Process(target=climb_from_a_queue, args=(q, results))
        child.start()
        q.put(manager.Tree())
        assert results.get() == FOUND
        child.join()
    manager.join()


@OURS
def test_in_a_pool(ctx, mp):
    with manager_of(mp)(ctx=ctx) as manager, ctx.Pool(1) as pool:
        assert pool.apply(climb, (manager.Tree(),)) == FOUND
        pool.close()
        pool.join()
    manager.join()


@OURS
def test_out_of_a_shared_container(mp):
    """It went into the manager's process, and came out of it."""
    with manager_of(mp)(ctx=mp.get_context("fork")) as manager:
        shared = manager.list([{"tree": manager.Tree()}])
        assert climb(shared[0]["tree"]) == FOUND
        assert climb(pickle.loads(pickle.dumps(shared))[0]["tree"])[0] == 9
        del shared
        gc.collect()
    manager.join()


@OURS
def test_exposed_names_and_types_nobody_has_registered_here(mp):
    managers = importlib.import_module(f"{mp.__name__}.managers")
    with manager_of(mp)(authkey=b"key", ctx=mp.get_context("fork")) as manager:
        few = pickle.loads(pickle.dumps(manager.Few()))
        plain = few.leaf(0)
        assert plain.secret() == "secret"
        assert not hasattr(plain, "add")

        class Remote(managers.BaseManager):
            pass

        Remote.register("Tree")
        remote = Remote(manager.address, b"key")
        remote.connect()
        leaf = remote.Tree().branch().leaf(1)
        assert (leaf.add(1), type(leaf).__name__) == (2, "AutoProxy[Leaf]")
        del few, plain, leaf, remote
        gc.collect()
    manager.join()


@OURS
@pytest.mark.parametrize("address", [None, ("127.0.0.1", 0)])
def test_of_a_remote_manager(ctx, mp, address):
    kind = manager_of(mp)
    with kind(address, b"key", ctx=ctx) as server:
        remote = kind(server.address, b"key")
        remote.connect()
        results = ctx.SimpleQueue()
        tree = remote.Tree()
        child = ctx.Process(target=climb_and_tell, args=(tree, results))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert results.get() == FOUND
        # A client that has got in once knows the key.
        tree = remote.Tree()
        assert climb(pickle.loads(pickle.dumps(tree)))[0] == 5
        del child, tree, remote
        gc.collect()
    server.join()


@OURS
def test_a_type_of_proxies_without_a_name(mp):
    managers = importlib.import_module(f"{mp.__name__}.managers")

    class Local(managers.BaseProxy):
        _exposed_ = ("add",)

        def add(self, n):
            return self._callmethod("add", (n,))

    class Manager(managers.BaseManager):
        pass

    Manager.register("Branch", Branch, method_to_typeid={"leaf": "Leaf"})
    Manager.register("Leaf", proxytype=Local, create_method=False)
    with Manager(ctx=mp.get_context("fork")) as manager:
        branch = manager.Branch()
        assert type(branch.leaf(0)) is Local
        twin = pickle.loads(pickle.dumps(branch))
        assert (twin.leaf(1).add(1), type(twin.leaf(1)).__name__) == (2, "AutoProxy[Leaf]")
        del branch, twin
        gc.collect()
    manager.join()


@OURS
def test_a_method_of_a_travelled_dict(mp):
    """The types of a SyncManager are known everywhere."""
    with mp.Manager() as manager:
        shared = manager.dict(a=1)
        twin = pickle.loads(pickle.dumps(shared))
        assert list(twin) == ["a"]
        assert len(pickle.dumps(shared)) < 400
        del shared, twin
        gc.collect()
    manager.join()
