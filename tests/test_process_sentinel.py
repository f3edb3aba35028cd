"""The sentinel of a process: a descriptor to wait on beside others."""

import asyncio
import select
import selectors


def test_sentinel_with_select_and_selectors(ctx, gate):
    process = ctx.Process(target=gate.arrive)
    process.start()
    gate.arrivals()
    assert isinstance(process.sentinel, int)
    assert select.select([process.sentinel], [], [], 0)[0] == []
    with selectors.DefaultSelector() as selector:
        selector.register(process.sentinel, selectors.EVENT_READ)
        assert selector.select(0) == []
        gate.open()
        assert len(selector.select()) == 1
    assert select.select([process.sentinel], [], [])[0] == [process.sentinel]
    process.join()
    assert process.exitcode == 0
    assert select.select([process.sentinel], [], [])[0] == [process.sentinel]


def test_sentinel_with_asyncio(ctx, gate):
    async def wait_for_end():
        process = ctx.Process(target=gate.arrive)
        process.start()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def on_end():
            loop.remove_reader(process.sentinel)
            ended.set_result(process)

        loop.add_reader(process.sentinel, on_end)
        await loop.run_in_executor(None, gate.arrivals)
        assert not ended.done()
        gate.open()
        await ended
        process.join()
        return process.exitcode

    assert asyncio.run(wait_for_end()) == 0
