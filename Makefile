PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: test lint
test: .venv/.ready
	$(BIN)/python -m pytest
lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@
