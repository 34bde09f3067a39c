# `make demo` and `make test` need Python 3.11 or newer, make and git; they install the rest into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml constraints.txt

.PHONY: demo test lint types docs bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.all
	$(BIN)/fusar-klip demo --out demo

test: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.all
	for name in build counts describe near_duplicates pretrain scio scio_noise; do $(BIN)/python perf/$$name.py || exit 1; done

clean:
	rm -rf $(VENV) demo out site

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'fusar-klip needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: $(SOURCES) | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt -e '.[all]'
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.all
