.PHONY: install serve test check lint types imports bench docs evaluation train

PYTHON ?= python3
VENV := .venv
# Labelled data to evaluate on: a folder of .jsonl.gz files, which are no part of the project.
DATA ?= ../shared/data/dev
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

evaluation: install
	$(BIN)/guardproxy evaluate $(DATA)/*.jsonl.gz --guard embedded --json | $(BIN)/python -m bench.evaluation_tables docs/evaluation.md
	$(BIN)/python -m bench.robustness docs/evaluation.md $(DATA)
	$(BIN)/python -m bench.escapes docs/escapes.md

train: install
	$(BIN)/python training/train.py
