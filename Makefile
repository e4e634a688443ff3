# Everything here works on a machine with make and Python 3.11, 3.12 or 3.13: each target makes what it needs.
#
#   make quickstart    the default recipe, from nothing to a table row and a sample grid
#   make test          the tests
#   make test-slow     those that take minutes: several workers
#   make check         what CI checks besides the tests: lint, format, types, recipes, tables
#   make PYTHON=/path/to/python3.12 test      with a certain Python
#   make VENV=/elsewhere/venv test            with the environment in another place

VENV ?= .venv
PYTHON ?=
WORKDIR ?= runs/quickstart
RECIPE ?= recipes/quickstart.gin

python := $(VENV)/bin/python
# A stamp is newer than the files that decide what is installed, so a second make does nothing.
installed := $(VENV)/.installed
installed_test := $(VENV)/.installed-test

SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.DELETE_ON_ERROR:
.PHONY: help quickstart test test-slow lint format types recipes tables check ci clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n '1,8p'

quickstart: $(installed)
	$(python) -m zoo.run --recipe $(RECIPE) --workdir $(WORKDIR)

# Files by name, not by number of tests: those with few but long ones would be left to the end, for one process.
test: $(installed_test)
	$(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: $(installed_test)
	$(python) -m pytest -m slow

lint: $(installed_test)
	$(python) -m ruff check .

format: $(installed_test)
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

types: $(installed_test)
	$(python) -m mypy

recipes: $(installed_test)
	$(python) -m zoo.run --recipe recipes --do check

# Writes docs/tables anew from harness/papers and results.
tables: $(installed)
	$(python) -m harness.tables

check: lint types recipes
	$(python) -m ruff format --check .
	$(python) -m harness.tables --check

ci:
	.ci/run

# The environment, caches and build files; never runs/, which holds trained weights.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find zoo harness tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(python):
	@chosen=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python); do \
	  if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "error: Python 3.11, 3.12 or 3.13 is needed (TensorFlow has no other builds), with its venv module."; \
	  echo "       $(if $(PYTHON),$(PYTHON),python3) is: $$("$(if $(PYTHON),$(PYTHON),python3)" --version 2>&1)."; \
	  echo "       Name one that fits: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; \
	  exit 1; \
	fi; \
	echo "environment in $(VENV), from $$chosen ($$("$$chosen" --version 2>&1))"; \
	"$$chosen" -m venv $(VENV)

$(installed): pyproject.toml constraints.txt | $(python)
	$(python) -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(installed_test): pyproject.toml constraints.txt | $(python)
	$(python) -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(installed) $@
