.PHONY: help setup demo demo-down lint test golden

PYTHON := .venv/bin/python

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup:  ## install what is missing, into .venv (and Debian packages, as root or with sudo)
	@deploy/local/setup.sh

demo: setup  ## run the main job on real data: Fashion-MNIST, Ray and MLflow on this machine
	@$(PYTHON) deploy/local/demo.py

demo-down:  ## stop what the demo started
	@if [ -x $(PYTHON) ]; then $(PYTHON) deploy/local/stack.py down; fi

lint: setup  ## check style and types
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy

test: lint  ## run style, types and all tests
	@$(PYTHON) -m pytest

golden: setup  ## train small specs with revision BASE and with this tree, and compare bit for bit
	@$(PYTHON) tests/golden/compare.py $(BASE) $(if $(TOLERANCE),--tolerance $(TOLERANCE))
