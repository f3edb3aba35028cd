"""A program that ignores SIGCHLD: the kernel keeps no exit status of its children. Nothing hangs, and nothing is made up."""

import pytest

METHODS = ["fork", "forkserver", "spawn"]

pytestmark = pytest.mark.only("manycore", reason="the standard package then takes ended processes for living ones")


@pytest.mark.parametrize("method", METHODS)
def test_processes(script, method):
    program = script(
        """
        def main():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            context = mp.get_context(sys.argv[1])
            for _ in range(3):
                process = context.Process(target=sys.exit, args=(3,))
                process.start()
                process.join()
                assert not process.is_alive()
                print(process.exitcode)
            killed = context.Process(target=tasks.wait_for_ever, daemon=True)
            killed.start()
            killed.kill()
            killed.join()
            print(killed.exitcode)
            assert mp.active_children() == []
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
        """,
        arguments=[method],
    )
    assert program.finish() == 0, program.errors.decode()
    # The zygote knows how its children end; of others 255 stands for what nobody knows.
    expected = ["3", "3", "3", "-9"] if method == "forkserver" else ["255"] * 4
    assert program.output.decode().split() == expected
    assert program.errors == b""
    assert program.orphans() == {}


@pytest.mark.parametrize("method", METHODS)
def test_a_pool(script, method):
    program = script(
        """
        def main():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            with mp.get_context(sys.argv[1]).Pool(2) as pool:
                for end, argument in ((tasks.die_by_exit, 3), (tasks.die_by_signal, signal.SIGKILL)):
                    try:
                        pool.apply(end, (argument,))
                    except mp.WorkerLost as error:
                        print(error.exitcode, error.signal, "unknown reason" in str(error))
                assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
            pool.join()
        """,
        arguments=[method],
    )
    assert program.finish() == 0, program.errors.decode()
    known = ["3 None False", "-9 SIGKILL False"]
    expected = known if method == "forkserver" else ["None None True"] * 2
    assert program.output.decode().splitlines() == expected
    assert program.errors == b""
    assert program.orphans() == {}


@pytest.mark.parametrize("method", METHODS)
def test_children_ignore_it_as_their_parent_does(script, method):
    program = script(
        """
        def tell():
            print(signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN, flush=True)

        def main():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            process = mp.get_context(sys.argv[1]).Process(target=tell)
            process.start()
            process.join()
        """,
        arguments=[method],
    )
    assert program.finish() == 0, program.errors.decode()
    assert program.output == b"True\n"


def test_a_child_that_is_gone_before_it_is_watched(script):
    program = script("""
        import select

        open_pidfd = os.pidfd_open

        def open_late(pid):
            pidfd = open_pidfd(pid)
            select.select([pidfd], [], [])
            os.close(pidfd)
            return open_pidfd(pid)

        def main():
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            os.pidfd_open = open_late
            process = mp.get_context("fork").Process(target=int)
            process.start()
            assert select.select([process.sentinel], [], [])[0] == [process.sentinel]
            process.kill()
            process.join()
            print(process.exitcode)
            process.close()
    """)
    assert program.finish() == 0, program.errors.decode()
    assert program.output.split() == [b"255"]
