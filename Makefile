# Commands of a developer. `make help` lists them; `.ci/run` runs the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools
DEMO_FLAGS ?=
STUDY ?=
TEST_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help tools sbom install demo up shell test test-slow test-long test-earlier test-wheels test-containers release hashes hashes-cpu check format bench clean chaos chaos-failover fuzz-listener demo-checkpoint measure-regions docs grounding measure-gate

help: ## Show this list
	@awk 'BEGIN { FS = ":[^#]*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z%-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Run

# The stamp is newer than its sources, so nothing is installed twice.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/installed ## Create .venv with all dependencies

demo: install ## Run all processes on sample studies (DEMO_FLAGS=--exit stops at the end)
	$(BIN)/prelim demo $(DEMO_FLAGS)

up: install ## Run all processes until Ctrl-C
	$(BIN)/prelim up

shell: install ## Open Python with a database session (STUDY=id, UID or accession number)
	$(BIN)/python -m deploy.operate.shell $(if $(STUDY),'$(STUDY)')

##@ Develop

format: install ## Format the code and apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: install ## Check formatting, lint, types and import rules, as CI does
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# In two processes: half of the time is spent waiting for servers that a test has started. In the order of the folders:
# files of unit tests, each of which takes little, are last, so that both processes end at about the same time.
test: install ## Run the tests
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

# In the order of tests/conftest.py.
test-slow: install ## Run the slow tests: kills, restarts, training
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

test-long: install ## The same with the sizes of the records: 500 studies on two hosts, a minute of chaos
	TESTS_LONG=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

EARLIER ?=
test-earlier: install ## Run the tests of an earlier commit on the schema of this one (EARLIER=COMMIT)
	.ci/earlier $(EARLIER) -n 2 --dist loadfile $(TEST_FLAGS)

test-wheels: install ## Ask the package index for wheels of Python 3.11 to 3.14 on x86-64 and aarch64
	WHEELS=all $(BIN)/python -m pytest tests/packaging $(TEST_FLAGS)

# Linters and validators, in an environment of their own: their dependencies are not among the constraints.
$(TOOLS)/installed: .ci/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check --requirement .ci/tools.txt
	@touch $@

tools: $(TOOLS)/installed ## Install linters and validators into .tools, for tests (TESTS_TOOLS=.tools/bin)

sbom: install tools ## List all installed packages with licences in build/sbom.json (CycloneDX)
	@mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment $(VENV) --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json

hashes: install ## Write requirements/*.txt: all packages with the SHA-256 of their wheels, as the package index lists them
	$(BIN)/python -m tests.packaging.hashes

hashes-cpu: install ## Write requirements/cpu.txt: torch's build for the CPU, as its index lists it (TORCH_OPTIONS=)
	$(BIN)/python -m tests.packaging.hashes cpu

KEY ?=
release: sbom ## Write a signed release of HEAD to build/release (KEY=private key of ssh-keygen)
	.ci/release '$(KEY)' build/release build/sbom.json

test-containers: install ## Build the images with podman and send a study through (BASE= PIP_OPTIONS= TORCH_OPTIONS= WHEELS_DIR=)
	CONTAINERS=1 $(BIN)/python -m pytest tests/containers $(TEST_FLAGS)

docs: install ## Write the generated parts of the documents
	$(BIN)/python -m tests.documents

clean: ## Remove build and cache files; keeps data
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

grounding: install ## Run the hostile cases of evidence that need the demo checkpoint
	$(BIN)/python -m pytest -m slow tests/grounding $(TEST_FLAGS)

##@ Test under faults

SEED ?= 1
SECONDS ?= 60
PROCESSES ?= 1
chaos: install ## Inject faults while studies arrive, then check all invariants (SEED=1)
	$(BIN)/python -m tests.chaos --seed $(SEED)

chaos-failover: install tools ## The same with replicas, which are promoted, and an object storage (SEED=1)
	TESTS_TOOLS=$(TOOLS)/bin $(BIN)/python -m tests.chaos --failover --minutes 1 --studies 100 --seed $(SEED)

fuzz-listener: install ## Send mutated associations to the listener (SEED=1 SECONDS=60 PROCESSES=1)
	$(BIN)/python -m tests.fuzz.listener --seed $(SEED) --seconds $(SECONDS) --processes $(PROCESSES)

##@ Measure and train

BENCHES := $(patsubst tests/benchmarks/bench_%.py,bench-%,$(wildcard tests/benchmarks/bench_*.py))
.PHONY: $(BENCHES)
bench: $(BENCHES) ## Run every benchmark; bench-NAME runs one

$(BENCHES): bench-%: install
	$(if $(SIZE),SIZE=$(SIZE)) $(BIN)/python -m tests.benchmarks.bench_$*

record-%: install ## Run bench-% and append its figures to docs/measurements/benches.jsonl
	$(BIN)/python -m tests.benchmarks.bench_$* | $(BIN)/python -m tests.benchmarks.record $*

measure-regions: install ## Measure regions of findings against chance, prior and a random tower
	$(BIN)/python -m worker.evaluation.region_controls

measure-gate: install ## Measure which genuine and other images are refused as out of distribution
	$(BIN)/python -m worker.evaluation.gate_figures

demo-checkpoint: install ## Train the demo checkpoint on phantoms
	$(BIN)/python -m worker.training.train
