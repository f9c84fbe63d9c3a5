# Everything from a fresh clone: `make run`, `make test`.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell command -v python$(version))) python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# uv installs in seconds what pip installs in minutes. It does not read pip's configuration, so the index, the links and
# the certificate are passed on; where it cannot be had or fails, pip does the same.
SETTING = $$($(BIN)/python -m pip config get global.$(1) 2>/dev/null)
UV = UV_INDEX_URL="$(call SETTING,index-url)" UV_FIND_LINKS="$(call SETTING,find-links)" \
	SSL_CERT_FILE="$${SSL_CERT_FILE:-$(call SETTING,cert)}" UV_LINK_MODE=hardlink \
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt
INSTALL = $(PIP) uv && $(UV) $(2) -e $(1) || { $(PIP) torch && $(PIP) -e $(1); }
# What numba compiles is kept beside its source: without this the first run takes half a minute of CPU time more.
COMPILE = $(BIN)/python -m tasks.compiled

comma := ,
# Bytecode is written once, by the set-up, or by the first of the tests' processes that needs it, not compiled by each
# process that starts: that would be half of a short run's CPU time.
unexport PYTHONDONTWRITEBYTECODE
# What needs no other is made side by side: mypy and Sphinx have one thread, and tests also wait.
MAKEFLAGS += --jobs=3

.PHONY: setup dev run test tests test-faults lint style types docs up down bench models

setup: $(STAMP)

dev: $(DEV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(call INSTALL,'.[pipeline]',--compile-bytecode)
	$(COMPILE)
	touch $(STAMP)

$(DEV): $(BIN)/python pyproject.toml constraints.txt
	$(call INSTALL,'.[dev$(comma)docs]')
	$(COMPILE)
	touch $(STAMP) $(DEV)

run: setup
	$(BIN)/ketcycle run $(ARGS)

test: lint tests

# One process for each core; the tests of a file stay together, for they share what takes long to make, and the files
# that take longest come first (tests/conftest.py).
tests: style
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --durations=15 $(ARGS)

test-faults: dev
	$(BIN)/python -m pytest -m faults $(ARGS)

lint: style types

style: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: style
	nice $(BIN)/mypy

# The site is in docs/_build; a link that leads nowhere, or a page that no list names, is an error.
docs: dev
	nice $(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

up: setup
	$(BIN)/ketcycle up

down: setup
	$(BIN)/ketcycle down

bench: dev
	$(BIN)/python -m benchmarks

models: setup
	$(call INSTALL,'.[models]')
	$(BIN)/python -m deployments.models
