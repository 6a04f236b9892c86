# What a developer types. `make help` lists it; `.ci/run` runs the same words.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_FLAGS ?=
TEST_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-slow check format bench clean chaos fuzz-listener demo-checkpoint docs

help: ## Show this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):.*## /\1\t/' | expand -t 20

# The stamp is newer than what it was made from, so nothing is installed twice.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/installed ## Make .venv with everything in it

demo: install ## Start everything, send sample studies, watch their reports (DEMO_FLAGS=--exit to stop after)
	$(BIN)/prelim demo $(DEMO_FLAGS)

up: install ## Start everything and keep it running
	$(BIN)/prelim up

test: install ## Run the tests
	$(BIN)/python -m pytest -m "not slow" $(TEST_FLAGS)

test-slow: install ## Run the tests that take their time: kills, restarts, training
	$(BIN)/python -m pytest -m slow $(TEST_FLAGS)

check: install ## Run what CI checks: formatting, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

SEED ?= 1
SECONDS ?= 60
chaos: install ## Break everything while studies arrive, and count (SEED=1)
	$(BIN)/python -m tests.chaos --seed $(SEED)

fuzz-listener: install ## Throw mutated associations at the listener (SEED=1 SECONDS=60)
	$(BIN)/python -m tests.fuzz.listener --seed $(SEED) --seconds $(SECONDS)

demo-checkpoint: install ## Train the demo checkpoint on phantoms
	$(BIN)/python -m worker.training.train

format: install ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCHES := $(patsubst tests/benchmarks/bench_%.py,bench-%,$(wildcard tests/benchmarks/bench_*.py))
.PHONY: $(BENCHES)
bench: $(BENCHES) ## Run every benchmark; bench-NAME runs one

$(BENCHES): bench-%: install
	$(BIN)/python -m tests.benchmarks.bench_$*

record-%: install ## Run bench-% and append its figures to docs/measurements/benches.jsonl
	$(BIN)/python -m tests.benchmarks.bench_$* | $(BIN)/python -m tests.benchmarks.record $*

docs: install ## Write the generated parts of the documents
	$(BIN)/python -m tests.documents

clean: ## Remove what the build made; never data
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
