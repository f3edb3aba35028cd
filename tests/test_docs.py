"""Every example of the guide and of the README is a program: it runs, and prints what the text says it prints."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(path):
    """(label, program, what it prints or None) of every block of Python on a page.

    What it prints is the block of text that follows it with nothing between.
    """
    text = path.read_text()
    blocks = list(FENCE.finditer(text))
    for block, after in zip(blocks, [*blocks[1:], None]):
        if block[1] == "python":
            line = text.count("\n", 0, block.start()) + 1
            follows = after is not None and after[1] == "text" and not text[block.end() : after.start()].strip()
            yield f"{path.name}:{line}", block[2], after[2] if follows else None


EXAMPLES = [example for path in PAGES for example in examples(path)]


@pytest.mark.parametrize(("label", "program", "prints"), EXAMPLES, ids=[label for label, _, _ in EXAMPLES])
def test_example(tmp_path, label, program, prints):
    path = tmp_path / "program.py"
    path.write_text(program)
    unchanged = re.search("^(import|from) multiprocessing", program, re.MULTILINE) and "install()" not in program
    # A cell of a notebook, as it would be typed.
    typed = "Pool()" in program and "__name__" not in program
    command = [sys.executable, *(["-m", "manycore"] if unchanged else []), "-" if typed else str(path)]
    typing = program if typed else ""
    done = subprocess.run(command, input=typing, capture_output=True, text=True, timeout=50, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    if prints is not None:
        assert done.stdout == prints


def test_no_example_is_overlooked():
    """A fence that the pattern does not see would not run."""
    assert sum(path.read_text().count("\n```python\n") for path in PAGES) == len(EXAMPLES)
