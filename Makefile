# `make demo` and `make test` work on a fresh machine with a Rust toolchain, a C compiler and Python 3.11+ with pip:
# everything else goes into .venv and target/.

PYTHON ?= python3
# Passed to the benchmarks, the demo, pytest and CPython's test-suite.
BENCH ?=
DEMO ?=
PYTEST ?=
CONFORMANCE ?=
FUZZ ?=
SOAK ?=
# The interpreters of `make wheels`; all that are found where none is named.
WHEELS ?=
# Seconds of fuzzing for each target, and of the soak, which fuzzes all targets together for two minutes more.
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
# The interpreters of `make conformance-all`.
PYTHONS ?= python3.11 python3.12 python3.13 python3.14 python3.15
# Only asked where an interpreter comes without pip.
PIP ?= python3 -m pip
# The models that run under loom, and how far it looks. Three preemptions find nearly everything; more takes hours.
LOOM_TARGETS ?= --test 'loom_*'
LOOM_MAX_PREEMPTIONS ?= 3

# An interpreter that is named, as in `make test PYTHON=python3.14`, gets an environment of its own beside .venv.
# By its version: interpreters of two versions may both be called python3.
ifndef VENV
VENV := .venv$(if $(filter-out file,$(origin PYTHON)),-$(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])'))
endif
BIN := $(VENV)/bin
RUST_CRATES := -p manycore-engine -p manycore -p manycore-macros
NEXTEST := $(shell cargo nextest --version 2>/dev/null)

# The binding is built for the interpreter of .venv, whichever other one is active.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
unexport PYTHONHOME CONDA_PREFIX

RUST_SOURCES := Cargo.toml Cargo.lock pyproject.toml \
	$(shell find crates -name '*.rs' -o -name 'Cargo.toml' -o -name '*.md')

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help develop demo bench bench-rust test lint lint-rust lint-python lint-workflows docs test-rust test-loom test-python \
	conformance conformance-all venv-without-pip fuzz soak wheels package clean

help:
	@echo "make develop   build manycore into .venv (quick when nothing changed)"
	@echo "make demo      run the tutorial; a table of every method's time        DEMO='--rounds 3'"
	@echo "make test      every check: lint, Rust tests, loom models, Python tests PYTEST='-k pool -x'"
	@echo "make lint      formatting, clippy, rustdoc, ruff, pyright, stubtest, workflow files, the guide"
	@echo "make conformance      CPython's own tests against manycore             CONFORMANCE='--start-method fork TestWait'"
	@echo "make conformance-all  the same on every interpreter                   PYTHONS='python3.12 python3.13'"
	@echo "make fuzz      whatever is decoded, coverage-guided, a minute each      FUZZ_SECONDS=600 FUZZ='channel tasks'"
	@echo "make soak      everything at once under random kills, ten minutes       SOAK_SECONDS=60 SOAK='--seed 7'"
	@echo "make docs      the guide, in target/docs/index.html"
	@echo "make wheels    a wheel for every interpreter, tried in an empty environment  WHEELS='python3.12'"
	@echo "make package   the source archive and the crates, as their registries build them"
	@echo "make bench     manycore and its peers, every workload                   BENCH='--quick'"
	@echo "make bench-rust  the Rust face and its peers"
	@echo "Every target takes another interpreter, with an environment of its own:   PYTHON=python3.14"
	@echo "make clean     remove what was built"

# --- the environment ---

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "manycore needs Python 3.11 or later; set PYTHON")'
	@$(PYTHON) -c 'import ensurepip; ensurepip.version()' 2>/dev/null && $(PYTHON) -m venv $(VENV) || $(MAKE) --no-print-directory venv-without-pip

# Distributions may leave ensurepip out. Then the pip of any other Python brings pip into the environment; the files are
# only copied, because an old pip does not run on a new interpreter.
venv-without-pip:
	@echo "$(PYTHON) cannot install pip by itself: pip comes from $(PIP)"
	rm -rf $(VENV)
	$(PYTHON) -m venv --without-pip $(VENV)
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		&& version=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_python_version())') \
		&& PIP_ROOT_USER_ACTION=ignore $(PIP) --quiet --disable-pip-version-check install \
			--target "$$site" --python-version "$$version" --only-binary=:all: pip \
		|| { rm -rf $(VENV); exit 1; }

$(VENV)/.requirements: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# Python files are used from the checkout, so only what is compiled calls for a build.
$(VENV)/.engine: $(VENV)/.requirements $(RUST_SOURCES)
	$(BIN)/maturin develop --release --locked
	@touch $@

# One by one: a peer that does not install on this machine must not take the others with it.
$(VENV)/.peers: benchmarks/requirements.txt $(VENV)/.requirements
	@grep -Ev '^ *(#|$$)' benchmarks/requirements.txt | while read -r peer; do \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$peer" </dev/null \
			|| echo "$$peer does not install here; the benchmarks will call it absent"; \
	done
	@touch $@

develop: $(VENV)/.engine

demo: develop
	$(BIN)/python examples/tutorial/demo.py $(DEMO)

bench: develop $(VENV)/.peers
	$(BIN)/python -m benchmarks $(BENCH)

bench-rust:
	cd benchmarks/rust && cargo bench --locked

# --- the checks ---

test: lint test-rust test-loom test-python conformance
	@echo "make test: every check passed"

lint: lint-rust lint-python lint-workflows docs

lint-rust: develop
	@echo "== cargo fmt"
	cargo fmt --all --check
	@echo "== clippy"
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked $(RUST_CRATES) --all-targets --all-features -- -D warnings
	@echo "== rustdoc"
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

lint-python: develop
	@echo "== ruff"
	$(BIN)/ruff check . .ci/interpreter
	$(BIN)/ruff format --check . .ci/interpreter
	@echo "== pyright"
	$(BIN)/pyright --pythonpath $(BIN)/python python/manycore
	@if [ -e python/manycore/_engine.pyi ]; then \
		echo "== stubtest"; MYPYPATH=python $(BIN)/stubtest manycore._engine; \
	fi

lint-workflows: develop
	@echo "== workflow files"
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

docs: develop
	@echo "== the guide"
	$(BIN)/sphinx-build -q -W --keep-going -b html docs target/docs

test-rust:
	@echo "== Rust tests"
ifneq ($(NEXTEST),)
	cargo nextest run --locked $(RUST_CRATES) --all-features
else
	cargo test --locked $(RUST_CRATES) --all-features --all-targets
endif
	cargo test --locked $(RUST_CRATES) --all-features --doc

# Its own target folder, or every switch of --cfg would build the world anew. Models are searched by brute force, so
# they are optimised; but link-time optimisation would cost more than it gains.
test-loom:
	@echo "== loom models"
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom LOOM_MAX_PREEMPTIONS=$(LOOM_MAX_PREEMPTIONS) \
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
		cargo test --locked --release -p manycore-engine $(LOOM_TARGETS)

test-python: develop
	@echo "== Python tests"
	$(BIN)/python tests/files.py $(PYTEST)

conformance: develop
	@echo "== CPython's own tests"
	$(BIN)/python tests/conformance/run.py $(CONFORMANCE)

conformance-all:
	@for python in $(PYTHONS); do \
		$$python -c "" || { echo "$$python does not run: name interpreters that do, PYTHONS=..."; exit 1; }; \
		$(MAKE) --no-print-directory PYTHON=$$python conformance || exit 1; \
	done

# --- by night: what takes as long as it is given ---

# Optional: what does not install is named by fuzz/run.py.
$(VENV)/.fuzz: fuzz/requirements.txt $(VENV)/.requirements
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -r fuzz/requirements.txt
	@touch $@

fuzz: develop $(VENV)/.fuzz
	$(BIN)/python fuzz/run.py --seconds $(FUZZ_SECONDS) $(FUZZ)

soak: develop $(VENV)/.fuzz
	$(BIN)/python tests/soak/run.py --seconds $(SOAK_SECONDS) $(SOAK)
	@echo "== two minutes of fuzzing"
	$(BIN)/python fuzz/run.py --total 120

# --- what users install: see release/README.md ---

# Zig links against a C library older than this machine's.
$(VENV)/.zig: $(VENV)/.requirements
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ziglang
	@touch $@

wheels: $(VENV)/.zig
	$(BIN)/python release/wheels.py $(WHEELS)

package: develop
	@echo "== the crates"
	cargo publish --dry-run --locked $(RUST_CRATES)
	@echo "== the source archive"
	$(BIN)/maturin sdist --out target/wheels
	$(BIN)/python release/wheels.py --source

clean:
	rm -rf target fuzz/target $(VENV) .venv-* benchmarks/results python/manycore/*.so
