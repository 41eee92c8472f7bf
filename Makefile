# Everything is made in .venv from requirements/dev.txt, whose hashes are checked. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# Recipes run in the Makefile's own folder, whose path may hold spaces: all paths here are relative.
OWN_PACKAGES := mail_orchestration assets jobs schedules tests benchmarks

.PHONY: help demo dev test chaos model mutations check format bench bench-quick compiled interpreted test-compiled docs rules \
	lock clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' Makefile | column -t -s '|'

demo: $(READY) ## send 5,000 mails to a local relay through Dagster, and show what became of them
	@$(BIN)/mail-orchestration demo

dev: $(READY) ## the demo's installation, with Dagster's UI until Ctrl-C
	@exec $(BIN)/mail-orchestration dev

test: $(READY) ## all tests but the slow ones
	$(BIN)/python -m pytest -m "not slow"

mutations: $(READY) ## break the promises of delivery on purpose: the tests must notice each time
	$(BIN)/python -m pytest tests/mutations

chaos: $(READY) ## the long run: 500 kills over 300,000 messages, a table of what became of them (15 minutes)
	$(BIN)/python -m tests.chaos --kills 500 --messages 300000

SEED ?= $(shell date +%s)
model: $(READY) ## the queue against a model of it, in 300 new random runs (10 minutes); SEED=n repeats those of a seed
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/integration/test_queue_model.py --hypothesis-seed=$(SEED)

compiled: $(READY) ## compile what each message passes: a mailcaster then sends a fifth more; needs gcc and Python's headers
	$(BIN)/python deploy/compiled.py

interpreted: $(READY) ## remove what `make compiled` made
	$(BIN)/python deploy/compiled.py --undo

scenarios = $(wildcard tests/scenarios/test_$(1)*.py)
DELIVERY := $(foreach of,campaign chaos crash database deferred disk lines loose mail messages operator recipient relay resources \
	results send single two_hosts uncertain,$(call scenarios,$(of))) \
	$(foreach of,database_clock dispatch_claims dispatch_held_claim dispatch_recovery feedback_results_log mailcaster message_feed \
	queue_under_threads sending_singles shared_throttle,$(wildcard tests/integration/test_$(of)*.py))
test-compiled: compiled ## the unit tests and those of delivery, on what `make compiled` makes
	$(BIN)/python -m pytest -m "not slow" tests/unit $(DELIVERY)

check: $(READY) rules ## format, lint, types, layers, SQL, rules without a test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar mail_orchestration/sql

format: $(READY) ## bring the code into the form that check wants
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

rules: $(READY) ## rules of docs/reference/behaviour.md that no test shows
	$(BIN)/python tests/rules.py

bench: compiled ## all benchmarks, each figure beside its reference; the table is in build/bench (hours)
	$(BIN)/python -m benchmarks

bench-quick: $(READY) ## the same with small sizes: whether they work, and not how well (2 minutes)
	$(BIN)/python -m benchmarks --quick

docs: $(DOCS_READY) ## the documentation, as a site in site/
	$(BIN)/mkdocs build --strict --quiet --site-dir site

# Resolved for Linux and macOS and for Python 3.11 to 3.13 at once. Needs uv, and the network.
LOCK := uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-annotate pyproject.toml
lock: ## bring requirements/*.txt up to date with pyproject.toml
	$(LOCK) --extra dev -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt -o requirements/run.txt
	$(LOCK) --extra docs -c requirements/dev.txt -o requirements/docs.txt

clean: ## remove what make made (not an installation's state in .mail_orchestration)
	find mail_orchestration -name '*.so' -delete
	rm -f mail_orchestration/compiled.json
	rm -rf .venv site build dist ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/dev.txt pyproject.toml
	@.ci/make-venv $(VENV)
	@echo "installing into $(VENV) (a minute or two, once)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(DOCS_READY): $(READY) requirements/docs.txt
	@$(PIP) install --require-hashes -r requirements/docs.txt
	@touch $@
