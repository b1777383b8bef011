.PHONY: install serve test check lint types imports bench docs train

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip>=25.1,<26.2'
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo,eval,postgres]' --group dev
	touch $(STAMP)

serve: install
	$(BIN)/guardproxy serve

test: install
	$(BIN)/pytest

check: lint types imports test

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install
	$(BIN)/mypy

imports: install
	$(BIN)/lint-imports

bench: install
	$(BIN)/python bench/engine.py --quick
	$(BIN)/python bench/overhead.py

docs: install
	$(BIN)/pytest tests/test_docs.py

train: install
	$(BIN)/python training/train.py
