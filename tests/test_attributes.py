"""What programs find in the objects of the package, beyond what is documented: each attribute that the standard package's
object has is there, or the guide says that it is not."""

import json
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
DIFFERENCES = TESTS.parent / "docs" / "differences.md"

#: By the names of objects in `support.attributes`.
ABSENT = {
    "Pool": "_change_notifier _quick_get _result_handler _task_handler _worker_handler",
    "result": "_cache _callback _error_callback _pool _set _value",
    "iterator": "_cache _cond _index _items _job _length _pool _set _set_length _unsorted",
    "Queue": "_poll _recv_bytes _rlock _sem _send_bytes _wlock",
    "JoinableQueue": "_cond _poll _recv_bytes _rlock _sem _send_bytes _wlock",
    "SimpleQueue": "_poll _rlock _wlock",
    "lock": "__setstate__ _cleanup",
    "Event": "_cond _flag",
    "Barrier": "_array _cond _parties _wrapper",
    "managed": "_all_serials _next_serial _serial",
    "tracker": (
        "_reentrant_call_error _after_fork_in_child _ensure_running_and_write _launch _make_probe_message "
        "_reentrant_messages _stop_locked _teardown_dead_process _write"
    ),
    "fork server": "_forkserver_address _forkserver_alive_fd _forkserver_authkey connect_to_new_process",
    "heap": "_absorb _add_free_block _discard_arena _lastpid _malloc _remove_allocated_block _roundup",
}
#: The guide describes these in words, without the name of each attribute.
IN_WORDS = {"tracker", "heap", "fork server"}


def listed(package, pairs=""):
    command = [sys.executable, "-m", "support.attributes", package]
    done = subprocess.run(command, cwd=TESTS, input=pairs, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_attribute_is_there_or_listed():
    theirs = listed("multiprocessing")
    assert len(json.loads(theirs)) > 40
    missing = {}
    for name, attributes in json.loads(listed("manycore", theirs)):
        # All proxies alike.
        listed_as = name.partition(" ")[0] if name.startswith("managed ") else name
        missing.setdefault(name, set()).update(set(attributes) - set(ABSENT.get(listed_as, "").split()))
    assert {name: attributes for name, attributes in missing.items() if attributes} == {}


@pytest.mark.parametrize("name", [name for name in ABSENT if name not in IN_WORDS])
def test_the_guide_names_what_is_absent(name):
    guide = DIFFERENCES.read_text()
    assert [attribute for attribute in ABSENT[name].split() if f"`{attribute}`" not in guide] == []
