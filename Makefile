# Every target sets up what it needs in .venv; a second run finds it there.
PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip --disable-pip-version-check install
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help train test test-all lint figures sweep bench clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

train: .venv/core.stamp  ## train a small CNN in FP8 beside float32 on the embedded images (2 minutes)
	$(BIN)/python scripts/train.py wang2018fp8 $(ARGS)

test: .venv/test.stamp  ## run the default tests (WORKERS=2 processes; ARGS goes to pytest)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-all: .venv/test.stamp  ## run every test: also the slow ones, and those that need $QTRAIN_DATA
	$(BIN)/python -m pytest -n $(WORKERS) -m "" $(ARGS)

lint: .venv/lint.stamp  ## ruff, mypy, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

figures: .venv/core.stamp  ## draw all figures into paper_figs/out from committed results
	$(BIN)/python scripts/figures.py $(ARGS)

sweep: .venv/core.stamp  ## measure the ablations of wang2018fp8 again (15 minutes)
	$(BIN)/python scripts/sweep.py wang2018fp8 $(ARGS)

bench: .venv/test.stamp  ## time the operations and the training step (5 minutes)
	$(BIN)/python scripts/bench.py $(ARGS)

clean:  ## remove .venv and caches; runs/ and results stay
	rm -rf .venv .pytest_cache .xla_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) does not run or is older than Python 3.11; say make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/core.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing the pinned packages into .venv (about a minute)"
	$(PIP) --editable .
	@touch $@

.venv/test.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing the pinned packages into .venv (about a minute)"
	$(PIP) --editable '.[test]'
	@touch $@ .venv/core.stamp

.venv/lint.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[test,lint]'
	@touch $@ .venv/core.stamp .venv/test.stamp
