.PHONY: help setup demo demo-down lint test test-fast fuzz golden bench

PYTHON := .venv/bin/python

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup:  ## install what is missing, into .venv (and Debian packages, as root or with sudo)
	@deploy/local/setup.sh

demo: setup  ## run the main job on real data: Fashion-MNIST, Ray and MLflow on this machine
	@$(PYTHON) deploy/local/demo.py

demo-down:  ## stop what the demo started
	@if [ -x $(PYTHON) ]; then $(PYTHON) deploy/local/stack.py down; fi

lint: setup  ## check style, types and layers
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-logo

test: lint  ## check style, types and layers, and run all tests
	@$(PYTHON) -m pytest

test-fast: setup  ## run the tests that need no cluster and train nothing, in under 2 minutes
	@$(PYTHON) -m pytest tests/unit -m "not slow"

fuzz: setup  ## read damaged and hostile files: INPUTS=20000 or MINUTES=10, TARGET=name, SEED=n
	@$(PYTHON) tests/fuzz/run.py $(if $(INPUTS),--inputs $(INPUTS)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(TARGET),--target $(TARGET)) $(if $(SEED),--seed $(SEED))

golden: setup  ## train small specs with revision BASE and with this tree, and compare bit for bit
	@$(PYTHON) tests/golden/compare.py $(BASE) $(if $(TOLERANCE),--tolerance $(TOLERANCE))

bench: setup  ## run all benchmarks, and write the results to bench.json
	@$(PYTHON) tests/benchmarks/run_all.py --out bench.json
