"""Many processes, one after the other and at once: each tells its own exit code, and nothing of them stays."""

import gc
import sys
import threading

import pytest

from support import census

SCRIPT = """
import collections
import gc
from support import census

BATCH = 20

def state():
    # Processes, descriptors and resident bytes of this program and its zygote.
    gc.collect()
    family = [os.getpid(), *census.descendants(os.getpid())]
    kinds = collections.Counter((pid, kind) for pid in family for kind in census.descriptor_kinds(pid).values())
    return kinds, sum(map(census.resident_bytes, family))

def run(context, numbers):
    for first in range(numbers.start, numbers.stop, BATCH):
        batch = range(first, min(first + BATCH, numbers.stop))
        processes = [context.Process(target=sys.exit, args=(n % 251,), daemon=n % 2 == 0) for n in batch]
        for process in processes:
            process.start()
        for n, process in zip(batch, processes):
            process.join()
            assert process.exitcode == n % 251, (n, process)

def main():
    method, count = sys.argv[1], int(sys.argv[2])
    context = mp.get_context(method)
    run(context, range(count // 10))
    before, resident = state()
    run(context, range(count // 10, count))
    assert mp.active_children() == []
    # The zygote tells the end of a process first, and lets go of what it had of it then.
    assert census.eventually(lambda: not state()[0] - before), (before, state()[0])
    print(state()[1] - resident)
"""


@pytest.mark.only("manycore", reason="the census asks the standard package for processes only, and this takes a while")
@pytest.mark.parametrize(("method", "count"), [("fork", 10_000), ("forkserver", 2_000)])
@pytest.mark.deadline(300)
def test_ten_thousand_short_processes(script, method, count):
    program = script(SCRIPT, arguments=[method, count])
    grown = int(program.read_line(seconds=280))
    assert program.finish() == 0, program.errors
    # Some hundred bytes kept of each process would show.
    assert grown < 1 << 20
    assert program.orphans() == {}


@pytest.mark.only("manycore", reason="the census asks the standard package for processes only")
@pytest.mark.methods("fork", "forkserver")
@pytest.mark.parametrize("daemon", [False, True])
def test_many_processes_leave_nothing(ctx, daemon):
    before = census.descriptor_kinds()
    for _ in range(200):
        process = ctx.Process(target=int, daemon=daemon)
        process.start()
        process.join()
        assert process.exitcode == 0
    del process
    gc.collect()
    assert census.descriptor_kinds() == before


def test_many_at_once(ctx, gate):
    count = 5 if ctx.get_start_method() == "spawn" else 40
    processes = [ctx.Process(target=gate.arrive) for _ in range(count)]
    for process in processes:
        process.start()
    assert sorted(gate.arrivals(count)) == sorted(process.pid for process in processes)
    gate.open()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}


@pytest.mark.only("manycore", reason="the standard package's forkserver loses statuses then")
@pytest.mark.methods("fork", "forkserver")
def test_threads_start_processes_at_once(ctx):
    codes = []

    def work():
        for _ in range(10):
            process = ctx.Process(target=sys.exit, args=(7,))
            process.start()
            process.join()
            codes.append(process.exitcode)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [7] * 40
