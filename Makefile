# `make repro` runs the pipeline, `make test` the tests; both share the environment of `make setup`.
VENV ?= .venv
PYTHON ?= python3.11
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed

.PHONY: repro test setup lint clean

repro: setup
	PATH="$(BIN):$$PATH" dvc repro

test: setup
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(BIN):$$PATH" $(BIN)/python -m pytest -q -n logical --dist loadfile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $(STAMP)
