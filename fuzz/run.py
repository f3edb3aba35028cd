"""Builds the fuzz targets, runs each for a while, and says what was found. See README.md beside this file.

python fuzz/run.py                      every target, FUZZ_SECONDS (60) each
python fuzz/run.py channel tasks        these two
python fuzz/run.py --seconds 600 channel
python fuzz/run.py --reproduce FILE channel
python fuzz/run.py --minimise           make the committed corpora small again
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
CORPUS, FINDINGS, WORK = HERE / "corpus", HERE / "findings", HERE / "target" / "corpus"

#: What is compiled, and what is Python through and through.
COMPILED = ["frames", "channel", "tasks", "rust_codec", "python_codec", "python_connection"]
SCRIPTS = ["manager_wire", "shareable_list"]
#: Seconds after which one input is a hang, and megabytes after which one is too large.
HANG, MEMORY = 10, 2048
#: Bytes and files of one target's committed corpus.
SEEDS, FILES = 6 * 1024, 40
#: There a mistake in memory of the interpreter's own allocator ends the process. Where a peer may announce any length
#: this would also write to all of it.
CHECKED = {"python_codec"}

#: The compiler's own coverage pass: no nightly compiler is needed, and none of its sanitizers can be had.
COVERAGE = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
]


def missing(targets: list[str]) -> list[str]:
    """What these targets need and this machine does not have."""
    gaps = []
    if set(targets) & set(COMPILED):
        if not (shutil.which("c++") or shutil.which("g++")):
            gaps.append("a C++ compiler (libFuzzer is built from source)")
        if not shutil.which("cargo"):
            gaps.append("cargo")
        if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
            gaps.append(f"an interpreter with a shared library ({sys.executable} has none, so no program can embed it)")
    if set(targets) & set(SCRIPTS):
        probe = subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True, text=True)
        if probe.returncode:
            gaps.append(f"atheris for {sys.executable} (pip install -r fuzz/requirements.txt)")
    return gaps


def host() -> str:
    """The machine's own target: with it named, build scripts are compiled without coverage."""
    told = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    return re.search(r"^host: (.*)$", told, re.M)[1]


def build(target: str) -> pathlib.Path:
    """Compile everything; the folder of the programs."""
    environment = dict(os.environ, CARGO_ENCODED_RUSTFLAGS="\x1f".join(COVERAGE), PYO3_PYTHON=sys.executable)
    environment.pop("RUSTFLAGS", None)
    # Not `--locked`: what the crates depend on changes without anybody's thinking of this folder.
    subprocess.run(["cargo", "build", "--release", "--target", target], cwd=HERE, env=environment, check=True)
    return HERE / "target" / target / "release"


def command(name: str, programs: pathlib.Path | None) -> list[str]:
    """How the target is started."""
    if name in SCRIPTS:
        return [sys.executable, str(HERE / "python" / f"{name}.py")]
    return [str(programs / name)]


def environment(name: str) -> dict[str, str]:
    """What the target must find: our package, and for those that embed one the interpreter."""
    found = dict(os.environ, PYTHONPATH=f"{ROOT / 'python'}:{HERE / 'python'}", RUST_BACKTRACE="1")
    if name in COMPILED:
        found |= {"LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"), "PYTHONHOME": sys.base_prefix}
    if name in CHECKED:
        found["PYTHONMALLOC"] = "debug"
    return found


def run(name: str, programs: pathlib.Path | None, seconds: int) -> tuple[bool, str]:
    """Fuzz one target; whether nothing was found, and a line about it."""
    work = WORK / name
    work.mkdir(parents=True, exist_ok=True)
    FINDINGS.mkdir(exist_ok=True)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    arguments = [
        str(work),
        str(CORPUS / name),
        f"-max_total_time={seconds}",
        f"-timeout={HANG}",
        f"-rss_limit_mb={MEMORY}",
        f"-artifact_prefix={FINDINGS / name}-",
        "-len_control=20",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    began = time.monotonic()
    process = subprocess.run(
        command(name, programs) + arguments,
        env=environment(name),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds + 300,
    )
    text = process.stdout.decode(errors="replace")
    took = time.monotonic() - began

    def last(pattern: str) -> str:
        return (re.findall(pattern, text) or ["?"])[-1]

    inputs = last(r"number_of_executed_units: (\d+)")
    if inputs == "?":
        inputs = last(r"(?m)^#(\d+)\s")
    # The scripts' libFuzzer tells less.
    memory, coverage = last(r"rss(?:_mb)?: *(\d+)"), last(r"cov: (\d+)")
    line = f"{name:18} {took:5.0f} s  {inputs:>10} inputs  coverage {coverage:>5}  {memory:>5} MB"
    if process.returncode == 0:
        return True, line
    (FINDINGS / f"{name}.log").write_text(text)
    tail = "\n".join(text.splitlines()[-60:])
    found = last(r"Test unit written to (\S+)")
    return False, (
        f"{line}  FOUND something\n{tail}\n    the whole account: {FINDINGS / name}.log\n"
        f"    once more: {sys.executable} fuzz/run.py --reproduce {found} {name}"
    )


def reproduce(name: str, programs: pathlib.Path | None, file: str) -> int:
    """Run one input once, as loudly as the target is."""
    return subprocess.run([*command(name, programs), f"-timeout={HANG}", file], env=environment(name)).returncode


def minimise(name: str, programs: pathlib.Path | None) -> str:
    """Keep of what is committed and what was found the smallest inputs that cover the most, a few KiB of them."""
    with tempfile.TemporaryDirectory() as folder:
        merged = pathlib.Path(folder, "merged")
        seeds = pathlib.Path(folder, "seeds")
        subprocess.run([sys.executable, str(HERE / "seeds.py"), str(seeds)], env=environment(name), check=True)
        merged.mkdir()
        sources = [str(path) for path in (CORPUS / name, WORK / name, seeds / name) if path.is_dir()]
        if name in SCRIPTS:
            # Their libFuzzer cannot merge. What is in the folders covered something new when it was found.
            for path in (path for source in sources for path in pathlib.Path(source).iterdir()):
                shutil.copy(path, merged / hashlib.sha1(path.read_bytes()).hexdigest())
        else:
            subprocess.run(
                [*command(name, programs), "-merge=1", "-max_len=4096", str(merged), *sources],
                env=environment(name),
                capture_output=True,
                check=True,
            )
        inputs = sorted((path.stat().st_size, path.name, path) for path in merged.iterdir())
        # Evenly from short to long: the short ones alone would all say the same.
        total = sum(size for size, _, _ in inputs)
        step = max(1.0, total / SEEDS, len(inputs) / FILES)
        chosen = [inputs[int(number * step)] for number in range(int(len(inputs) / step))]
        keep, kept = [], 0
        for size, _, path in chosen:
            if kept + size <= SEEDS:
                keep.append(path)
                kept += size
        shutil.rmtree(CORPUS / name, ignore_errors=True)
        (CORPUS / name).mkdir(parents=True)
        for path in keep:
            shutil.copy(path, CORPUS / name / path.name[:16])
    return f"{name:18} {len(keep)} of {len(inputs)} inputs, {kept} of {total} bytes"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=", ".join(COMPILED + SCRIPTS))
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("FUZZ_SECONDS") or 60), help="for each")
    parser.add_argument("--total", type=int, help="for all of them together, instead")
    parser.add_argument("--reproduce", metavar="FILE", help="run one input of one target")
    parser.add_argument("--minimise", action="store_true", help="make the committed corpora small again")
    options = parser.parse_args()
    targets = options.targets or COMPILED + SCRIPTS
    if unknown := set(targets) - set(COMPILED + SCRIPTS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if gaps := missing(targets):
        print("fuzzing needs what is not here:", *gaps, sep="\n  ")
        return 2
    programs = build(host()) if set(targets) & set(COMPILED) else None
    if options.reproduce:
        if len(targets) != 1:
            parser.error("name the one target whose input this is")
        return reproduce(targets[0], programs, options.reproduce)
    if options.minimise:
        for name in targets:
            print(minimise(name, programs), flush=True)
        return 0
    seconds = max(1, options.total // len(targets)) if options.total else options.seconds
    clean = True
    for name in targets:
        fine, line = run(name, programs, seconds)
        clean &= fine
        print(line, flush=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
