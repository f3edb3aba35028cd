"""Pools whose workers are killed."""

from rig import PATIENCE, payload, role, whole

from manycore.context import ProcessError, WorkerLost

SIZES = (10, 10, 10, 5000, 300_000)


def work(number, size):
    """A small task that answers with as many bytes as it was given."""
    return payload(number, size)


def echo(message):
    """A task that gives back what it gets."""
    return message


def ask(rig, pool, number):
    """Begin one job; what it is called, and how its answers are taken, one by one."""
    random, size = rig.random, rig.random.choice(SIZES)
    n = random.randrange(1, 40)
    verb = random.choice(("apply_async", "map_async", "starmap_async", "imap", "imap_unordered"))
    chunk = random.choice((1, 3, None))
    if verb == "apply_async":
        result = pool.apply_async(work, (number, size))
        return verb, 1, lambda: [result.get(PATIENCE)]
    if verb == "map_async":
        result = pool.map_async(echo, [payload(number, size)] * n, chunk)
        return verb, n, lambda: result.get(PATIENCE)
    if verb == "starmap_async":
        result = pool.starmap_async(work, [(number, size)] * n, chunk)
        return verb, n, lambda: result.get(PATIENCE)
    results = getattr(pool, verb)(echo, [payload(number, size)] * n, chunk or 1)
    # Each item of these is answered by itself.
    return verb, n, lambda: iter(lambda: next_of(rig, results), StopIteration)


def next_of(rig, results):
    """The next item, or StopIteration as a value; a lost one counts and is gone over."""
    while True:
        try:
            return results.next(PATIENCE)
        except StopIteration:
            return StopIteration
        except WorkerLost:
            rig.counts["tasks lost"] += 1


def take(rig, number, verb, n, answers):
    """Take what a job gives: all of its values, or that it was lost."""
    with rig.awaiting(f"{verb} number {number}, {n} items"):
        try:
            for message in answers():
                assert whole(message) == number
                rig.counts["tasks answered"] += 1
        except WorkerLost:
            rig.counts["jobs lost"] += 1


def goes_on(rig, pool):
    """Wait until the pool answers a task with its value: kills may cost it tasks, but never all that come later."""
    with rig.awaiting("a value of a pool whose workers are killed"):
        while True:
            try:
                assert pool.apply(abs, (-1,)) == 1
                return
            except WorkerLost:
                rig.counts["tasks lost"] += 1


def pool_answers(rig):
    """Every task of a pool is answered, with its own value or WorkerLost, whichever workers are killed and whenever; and the
    pool goes on."""
    number = 0
    while not rig.over():
        with rig.awaiting("a pool"):
            pool = rig.ctx.Pool(3, role, ("worker",), rig.random.choice((None, 7)))
        rig.counts["pools"] += 1
        try:
            for _ in range(rig.random.randrange(1, 5)):
                jobs = []
                for _ in range(rig.random.randrange(1, 12)):
                    number += 1
                    with rig.awaiting(f"the submission of job {number}"):
                        jobs.append((number, *ask(rig, pool, number)))
                for job in jobs:
                    take(rig, *job)
            goes_on(rig, pool)
            if rig.random.random() < 0.5:
                pool.close()
        finally:
            with rig.awaiting("the end of a pool"):
                pool.terminate() if pool._state == "RUN" else None
                pool.join()
        del pool
        rig.mark()


def pool_terminated(rig):
    """A pool that is terminated with work in flight ends, and whoever waits for its results is told."""
    number = 0
    while not rig.over():
        with rig.awaiting("a pool"):
            pool = rig.ctx.Pool(2, role, ("worker",))
        jobs = []
        for _ in range(rig.random.randrange(1, 20)):
            number += 1
            jobs.append(ask(rig, pool, number))
        with rig.awaiting("terminate"):
            pool.terminate()
        with rig.awaiting("join after terminate"):
            pool.join()
        rig.counts["pools terminated"] += 1
        for verb, _, answers in jobs:
            with rig.awaiting(f"{verb} after terminate"):
                try:
                    for message in answers():
                        whole(message)
                    rig.counts["jobs answered"] += 1
                # Also the parent of WorkerLost: that the pool was terminated.
                except ProcessError:
                    rig.counts["jobs lost"] += 1
        del pool, jobs, answers
        rig.mark()
