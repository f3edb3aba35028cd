"""What a program's variables refer to is finalized when the program ends: files that are not closed are written, and so on.
Whatever of the package refers to a function of the program at the interpreter's end keeps all variables of its module."""

import sys

import pytest

LEFT = {
    "nothing": "",
    "a pool": "pool = ctx.Pool(1)",
    "a closed pool": "pool = ctx.Pool(1); pool.map(make, [1]); pool.close(); pool.join()",
    "a call": "pool = ctx.Pool(1); result = pool.apply_async(make, (1,))",
    "a value": "pool = ctx.Pool(1); value = pool.apply(make, (1,))",
    "a result": "pool = ctx.Pool(1); result = pool.apply_async(make, (1,), callback=call); result.get()",
    "an error": "pool = ctx.Pool(1); result = pool.apply_async(int, ('x',), error_callback=call); result.wait()",
    "a map": "pool = ctx.Pool(1); result = pool.map_async(make, range(5), callback=call)",
    "a lazy map": "pool = ctx.Pool(1); results = pool.imap(make, [1, 2])",
    "a lazy map that is used": "pool = ctx.Pool(1); results = pool.imap(make, [1, 2]); next(results)",
    "a lazy map that is over": "pool = ctx.Pool(1); results = pool.imap_unordered(make, iter([1, 2])); list(results)",
    "a lazy map in a thread": "pool = ctx.Pool(1); results = pool.imap(make, (n for n in range(9))); next(results)",
    "an initializer": "pool = ctx.Pool(1, call, (1,)); pool.map(make, [1])",
    "a reducer": "mp.reduction.register(Made, reduce); pool = ctx.Pool(1); pool.map(make, [Made(1)])",
    "a hook for children": "mp.util.register_after_fork(left, call); start(ctx.Process(target=call, args=(1,)))",
    "a finalizer": "mp.util.Finalize(left, call, (1,), exitpriority=3)",
    "a type of managers": "mp.managers.SyncManager.register('Made', Made); manager = mp.managers.SyncManager(ctx=ctx)",
    "a manager": "manager = ctx.Manager(); made = manager.list([Made(1)])",
    "a queue": "queue = ctx.Queue(); queue.put(Made(1)); queue.put(make)",
    "a process": "process = ctx.Process(target=make, args=(1,)); start(process)",
    "connections": "ours, theirs = ctx.Pipe(); ours.send(Made(1)); made = theirs.recv()",
    "threads": "pool = mp.pool.ThreadPool(1); result = pool.apply_async(make, (1,), callback=call); result.get()",
}
#: The standard package keeps them from CPython 3.14 on.
KEPT_THERE = ("a reducer", "a hook for children", "a type of managers")


@pytest.mark.parametrize("what", LEFT)
def test_what_the_main_module_refers_to_is_finalized(mp, ctx, script, what):
    if what in KEPT_THERE and mp.__name__ == "multiprocessing" and sys.version_info >= (3, 14):
        pytest.skip("the standard package keeps it")
    program = script(f"""
        for name in ("managers", "pool", "reduction", "util"):
            __import__(mp.__name__ + "." + name)

        class Made:
            def __init__(self, n):
                self.n = n

        class Left:
            def __del__(self, write=sys.__stdout__.write):
                write("finalized")

        def make(n):
            return Made(n)

        def call(_):
            pass

        def reduce(made):
            return Made, (made.n,)

        def start(process):
            process.start()
            process.join()

        def main():
            ctx = mp.get_context({ctx.get_start_method()!r})
            globals().update(ctx=ctx, left=Left())
            exec({LEFT[what]!r}, globals())
    """)
    assert program.finish() == 0, program.errors
    assert program.output == b"finalized"
