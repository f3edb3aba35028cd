"""The census sees what a test leaves, and not what another program has."""

import os
import subprocess
import sys

from support import census

HOLDER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 4096)
print("mapped", flush=True)
sys.stdin.read()
"""


def test_a_name_that_another_program_uses_is_not_ours(monkeypatch):
    name = f"psm_census_{os.getpid()}"
    path = f"/dev/shm/{name}"
    with open(path, "wb") as file:
        file.truncate(4096)
    try:
        assert census.used_by_others({name}) == set()
        command = [sys.executable, "-c", HOLDER, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            holder.stdout.readline()
            # A child of ours has it mapped, so it is ours; if nobody were below us, it would be another's.
            assert census.used_by_others({name, "psm_not_there"}) == set()
            with monkeypatch.context() as alone:
                alone.setattr(census, "descendants", lambda pid: [])
                assert census.used_by_others({name, "psm_not_there"}) == {name}
            holder.stdin.close()
    finally:
        os.unlink(path)
