# Needs Python 3.11 or 3.12 and make. `make demo` on a fresh clone installs everything into .venv first.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# the first Python on the path that the project runs on
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3 python,$(if $(shell $(p) -c \
  'import sys; print(1 if (3, 11) <= sys.version_info[:2] < (3, 13) else "")' 2>/dev/null),$(p))))

# pip's settings for a mirror hold for uv too
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

# backbone weights that lie beside the clone are used without being asked for
ifeq ($(origin VAD_WEIGHTS),undefined)
ifneq ($(wildcard ../shared/data/weights),)
export VAD_WEIGHTS := $(abspath ../shared/data/weights)
endif
endif

# nothing reports home
export DAGSTER_DISABLE_TELEMETRY := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1

.PHONY: help install demo dev test test-random test-slow test-all lint format bench bench-quick screenshots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv with exactly the locked packages

# uv only installs faster than pip; it is pinned and hashed as everything else
$(BIN)/uv: tools/uv.lock
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found. Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r tools/uv.lock
	@touch $@

# if uv cannot reach the index that pip is configured for, pip installs the same files
$(STAMP): requirements.lock pyproject.toml $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## train both models on made images, inspect a drop, show the table
	$(BIN)/vad demo

dev: $(STAMP) ## both UIs and the inference service on localhost; one Ctrl-C stops all
	$(BIN)/vad dev

# Workers share the cores; all tests of one file run in one worker, which makes its models once.
TEST_WORKERS ?= 2

test: $(STAMP) ## the tests, without those that take long
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

test-random: $(STAMP) ## the tests that search for counterexamples, with a new seed; what is found becomes an @example
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m hypothesis --hypothesis-profile random

test-slow: $(STAMP) ## only the tests that take long
	$(BIN)/python -m pytest -m slow --timeout 1200

test-all: $(STAMP) ## every test
	$(BIN)/python -m pytest -m "slow or not slow" --timeout 1200

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## measure detectors beside anomalib, training sets of all sizes, both ways of inference, start-up; hours
	$(BIN)/python -m benchmarks.arrival_to_result
	$(BIN)/python -m benchmarks.queue_throughput
	$(BIN)/python -m benchmarks.burst
	$(BIN)/python -m benchmarks.chaos --seeds 3
	$(BIN)/python -m benchmarks.chaos --machines 2 --seeds 3
	$(BIN)/python -m benchmarks.code_location_start
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.detectors
	$(BIN)/python -m benchmarks.streaming_bank
	$(BIN)/python -m benchmarks.training_scale
	$(BIN)/python -m benchmarks.retrain_with_cache
	$(BIN)/python -m benchmarks.forecast_against_truth
	$(BIN)/python -m benchmarks.data_path

bench-quick: $(STAMP) ## both ways of inference, a burst, chaos tests, the detectors and a retrain, small
	$(BIN)/python -m benchmarks.arrival_to_result --quick
	$(BIN)/python -m benchmarks.burst --quick
	$(BIN)/python -m benchmarks.chaos --small --seeds 3
	$(BIN)/python -m benchmarks.detectors --quick
	$(BIN)/python -m benchmarks.retrain_with_cache --quick

screenshots: $(STAMP) ## pictures of the running UIs for the README (needs chromium)
	$(BIN)/python tools/screenshots.py

clean: ## remove caches; .venv and var stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
