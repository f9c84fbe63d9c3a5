# Everything from a fresh clone: `make run`, `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup run test test-faults lint up down bench models

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

run: setup
	$(BIN)/ketcycle run $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

test-faults: setup
	$(BIN)/python -m pytest -m faults $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

up: setup
	$(BIN)/ketcycle up

down: setup
	$(BIN)/ketcycle down

bench: setup
	$(BIN)/python -m benchmarks

models: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[models]"
	$(BIN)/python -m deployments.models
