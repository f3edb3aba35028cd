"""Results of a pool in an event loop."""

import asyncio
import os
import signal

import pytest

from support import census, tasks

pytestmark = pytest.mark.only("manycore", reason="the standard package's results cannot be awaited")


def hang(*_):
    while True:
        signal.pause()


async def arrivals(gate, count=1):
    """Waits until so many tasks have arrived, and everything that was begun in the loop waits, too."""
    # From CPython 3.14 on, the answer of another thread may be there before the loop's other tasks have had a step.
    await asyncio.sleep(0)
    await asyncio.to_thread(gate.arrivals, count)


def test_calls_and_maps_are_awaited(mp, ctx):
    async def main(pool):
        assert await pool.apply_async(tasks.square, (3,)) == 9
        assert await pool.map_async(tasks.square, range(100), 1) == [x * x for x in range(100)]
        results = [pool.apply_async(tasks.square, (x,)) for x in range(1000)]
        assert await asyncio.gather(*results) == [x * x for x in range(1000)]
        # Twice, by two, and what was there before.
        result = results[7]
        assert await asyncio.gather(result, result) == [49, 49]
        assert await pool.map_async(tasks.square, []) == []
        with pytest.raises(ValueError, match="invalid literal"):
            await pool.apply_async(int, ("x",))
        with pytest.raises(mp.WorkerLost):
            await pool.apply_async(os._exit, (3,))
        with pytest.raises(mp.TaskTimeout):
            await pool.apply_async(hang, task_timeout=0.05)

    with ctx.Pool(2) as pool:
        asyncio.run(main(pool))
        pool.close()
        pool.join()


@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
@pytest.mark.parametrize("lazily", [True, False])
def test_iterations_are_awaited(pool, verb, lazily):
    async def main():
        items = (x for x in range(3000)) if lazily else range(3000)
        seen = [value async for value in getattr(pool, verb)(tasks.square, items)]
        assert sorted(seen) == [x * x for x in range(3000)]
        assert verb == "imap_unordered" or seen == sorted(seen)
        results = pool.imap(int, ["1", "x", "3"])
        assert await anext(results) == 1
        with pytest.raises(ValueError, match="invalid literal"):
            await anext(results)
        assert await anext(results) == 3
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    asyncio.run(main())


def test_the_loop_goes_on_meanwhile(pool, gate):
    async def main():
        result = asyncio.ensure_future(wait_for(pool.apply_async(gate.arrive)))
        other = asyncio.ensure_future(take(pool.imap(gate_of, [gate])))
        await arrivals(gate, 2)
        assert not result.done()
        assert not other.done()
        gate.open()
        assert isinstance(await result, int)
        assert len(await other) == 1

    asyncio.run(main())


def gate_of(gate):
    return gate.arrive()


async def wait_for(result):
    return await result


async def take(results):
    return [value async for value in results]


@pytest.mark.parametrize("lazily", [True, False])
def test_to_cancel_the_wait_cancels_the_work(mp, pool, gate, lazily):
    async def main():
        work = pool.imap(gate_of, [gate]) if lazily else pool.apply_async(gate.arrive)
        task = asyncio.ensure_future(take(work) if lazily else wait_for(work))
        await arrivals(gate)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if not lazily:
            with pytest.raises(mp.TaskCancelled):
                await work
        assert work.cancelled()
        assert await pool.apply_async(tasks.square, (3,)) == 9

    asyncio.run(main())
    gate.open()


def test_a_pool_that_is_terminated_answers_those_who_await(mp, gate):
    async def main(pool):
        waits = [asyncio.ensure_future(wait_for(pool.apply_async(gate.arrive))) for _ in range(2)]
        waits.append(asyncio.ensure_future(take(pool.imap(hang, [1]))))
        await arrivals(gate, 2)
        await asyncio.to_thread(pool.terminate)
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, mp.ProcessError)

    with mp.Pool(2) as pool:
        asyncio.run(main(pool))
    pool.join()
    gate.open()


def test_a_loop_that_ended_bothers_nobody(pool, gate):
    async def main():
        left.append(asyncio.ensure_future(wait_for(shielded)))
        await arrivals(gate)

    left = []
    shielded = pool.apply_async(gate.arrive)
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    loop.run_until_complete(task)
    left.pop()._log_destroy_pending = False
    loop.close()
    gate.open()
    assert isinstance(shielded.get(), int)


def test_a_fork_of_a_process_that_awaits(mp, pool, gate):
    """The child has the results and neither the pool's threads nor its workers; it ends all the same."""

    async def main():
        waits = asyncio.ensure_future(wait_for(pool.apply_async(gate.arrive)))
        await arrivals(gate)
        child = mp.get_context("fork").Process(target=tasks.square, args=(3,))
        child.start()
        await asyncio.to_thread(child.join)
        assert child.exitcode == 0
        gate.open()
        assert isinstance(await waits, int)

    asyncio.run(main())
    assert census.eventually(lambda: pool.statistics()["in_flight"] == 0)
