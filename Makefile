# Every target does its own set-up: .venv with pinned dependencies, then its work.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
RESULTS := bench-results
export OMP_NUM_THREADS ?= 1

.PHONY: setup lint types test fuzz demo bench chaos conformance soak clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "Setting up .venv (a few minutes, once) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy

# ruff, import rules, types, then all tests; under 15 minutes on two cores.
# What starts no daemon runs on both cores.
test: lint types
	$(BIN)/python -m pytest -q -n 2 tests/unit tests/wire tests/sim
	$(BIN)/python -m pytest -q tests/cluster tests/hil

# Property tests with new random examples, and more of them, than "make test" takes.
fuzz: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m hypothesis --hypothesis-profile=fuzz tests/unit tests/wire tests/sim

# An autonomous campaign on a recorded grid of a real surface; leaves the report and no process behind.
demo: $(STAMP)
	@exec $(BIN)/stmctl --state state/demo run recorded_grid --foreground

bench: $(STAMP)
	$(BIN)/python -m tests.bench --out $(RESULTS)

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --seed 1 --out $(RESULTS)

# Others' clients and readers against our server and files, each in an environment of its own (.conformance).
conformance: $(STAMP)
	$(BIN)/python -m tests.conformance

# Garbage on every port for ten minutes, or for as long as wanted: make soak SECONDS=60.
SECONDS = 600
soak: $(STAMP)
	$(BIN)/python -m tests.soak --seconds $(SECONDS)

clean:
	rm -rf .venv .conformance build state $(RESULTS) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
