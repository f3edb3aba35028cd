"""How tests of queues let go of what they have used."""


def finish(process, code=0):
    process.join(40)
    assert process.exitcode == code
    process.close()


def close(*queues):
    for one in queues:
        one.close()
        if hasattr(one, "join_thread"):
            one.join_thread()
