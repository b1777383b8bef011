.PHONY: install serve test browser lint types bench docs mutation evaluation presets train train-multilingual package lock audit fuzz

PYTHON ?= python3
VENV := .venv
# Labelled data for `make evaluation`: a folder of .jsonl.gz files, which are not part of this repository.
DATA ?= ../shared/data/dev
WEIGHTS := guardproxy/weights/embedded
# Where guardproxy looks for `model: embedded-multilingual`: in its data directory.
MULTILINGUAL := $(or $(GUARDPROXY_DATA_DIR),$(or $(XDG_DATA_HOME),$(HOME)/.local/share)/guardproxy)/embedded-multilingual
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Two installations in one environment, each with a stamp: what `make serve` needs, and the tools and extras that every
# other target needs on top of it. The second depends on the first, so either target may be the first to run.
SERVING := $(VENV)/.serving
LISTS := $(VENV)/requirements
INSTALLED := $(VENV)/.installed

install: $(INSTALLED)

# The model of the upstream `demo` without what else its package requires: that needs a compiler, and is not used.
$(SERVING): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf $(LISTS)
	$(BIN)/python deploy/image/requirements.py pyproject.toml '' $(LISTS)
	$(PIP) install -e . -r $(LISTS)/all.txt
	$(PIP) install --no-deps -r $(LISTS)/alone.txt
	touch $@

# `--group` needs pip 25.1.
$(INSTALLED): $(SERVING)
	$(PIP) install 'pip>=25.1,<26.2'
	$(PIP) install -e '.[demo,eval,postgres]' --group dev
	touch $@

serve: $(SERVING)
	$(BIN)/guardproxy serve

# A process for each core, up to four. A test that fails runs once more, and the summary names it: docs/testing.md.
test: lint types browser
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --reruns 1 -rfER

# What the browser tests of the reviewer's page need: Debian's chromium, installed where that is allowed.
browser:
	@command -v chromium >/dev/null || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update && \
	DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >/dev/null; } || \
	echo "chromium is missing: tests/console/test_browser.py will be skipped"

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install
	$(BIN)/mypy

bench: install
	$(BIN)/python bench/engine.py --quick
	$(BIN)/python -m bench.number_formats --quick
	$(BIN)/python bench/overhead.py

docs: install
	$(BIN)/pytest tests/test_docs.py

# How many small changes of the source the tests notice: docs/testing.md. MODULES chooses modules, ARGS options.
mutation: install
	nice $(BIN)/python -m mutation $(MODULES) $(ARGS)

evaluation: install
	$(BIN)/guardproxy evaluate $(DATA)/*.jsonl.gz --guard embedded --json | $(BIN)/python -m bench.evaluation_tables docs/evaluation.md
	$(BIN)/python -m bench.slices docs/evaluation.md $(DATA)
	$(BIN)/python -m bench.robustness docs/evaluation.md $(DATA)
	$(BIN)/python -m bench.replies docs/evaluation.md $(DATA)
	$(BIN)/python -m bench.second_reading docs/evaluation.md $(DATA)
	$(BIN)/python -m bench.parts docs/evaluation.md $(DATA)
	$(BIN)/python -m bench.escapes docs/escapes.md

# The thresholds of `serve --preset`, found anew: after the weights have changed. They also go into README and the docs.
presets: install
	$(BIN)/python -m bench.presets $(DATA)

# Both models of the embedded guard, the large one first: it is the teacher of the small one.
train: install
	$(PIP) install --group train
	$(BIN)/python training/train.py --recipe large --out $(WEIGHTS)/large
	$(BIN)/python training/train.py --recipe small --teacher $(WEIGHTS)/large --out $(WEIGHTS)/small

# A guard for many languages, which does not ship: docs/languages.md.
train-multilingual: install
	$(PIP) install --group train-multilingual
	$(BIN)/python training/train.py --recipe multilingual --out $(MULTILINGUAL) --dev multijail benign_multilingual xstest
	$(BIN)/python bench/multilingual.py --model $(MULTILINGUAL)

# The versions that were tested, for `make audit`: docs/security.md.
lock: install
	$(BIN)/python .ci/lock.py > requirements.lock.new && mv requirements.lock.new requirements.lock

audit: install
	$(PIP) install --group audit
	.ci/audit.sh

# Ten minutes for each target: docs/testing.md.
fuzz: install
	$(PIP) install --group fuzz
	for target in wires apis settings views frames; do nice -n 19 $(BIN)/python -m tests.fuzz $$target || exit 1; done

# A wheel and a source distribution in dist/, checked as a package index would.
package: install
	$(PIP) install --group package
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
