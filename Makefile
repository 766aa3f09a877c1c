.PHONY: help setup wheelhouse lock demo demo-down lint test test-fast test-system image-check deploy-check deploy-check-run pin-images \
	audit fuzz mutants golden bench

VENV := .venv/bin/python

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup:  ## install what is missing, into .venv (system packages as root or with sudo); PYTHON=path, WHEELHOUSE=folder
	@deploy/local/setup.sh

wheelhouse:  ## download all Python packages for machines without network: FOLDER=path, PYTHON=path
	@deploy/local/wheelhouse.sh "$(FOLDER)"

lock:  ## write deploy/requirements from pyproject.toml, with hashes; UPGRADE=1 takes the newest versions
	@deploy/local/lock.sh

demo:  ## run the main job on real data: Fashion-MNIST, Ray and MLflow on this machine; FASHION_MNIST=folder
	@deploy/local/setup.sh demo
	@$(VENV) deploy/local/demo.py

demo-down:  ## stop what the demo started
	@if [ -x $(VENV) ]; then $(VENV) deploy/local/stack.py down; fi

lint: setup  ## check style, types and layers
	@$(VENV) -m ruff format --check .
	@$(VENV) -m ruff check .
	@$(VENV) -m mypy --num-workers 2
	@.venv/bin/lint-imports --no-logo

# A process waits for a cluster most of the time, so three of them keep two cores busy.
test: lint  ## check style, types and layers, and run all tests
	@$(VENV) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 25

test-system: setup  ## run the tests of the deployment with servers of the system, installed as root
	@deploy/local/system-packages.sh
	@$(VENV) -m pytest tests/system -rs --durations 10

test-fast: setup  ## run the tests that need no cluster and train nothing, in about 5 minutes
	@$(VENV) -m pytest tests/unit -m "not slow"

deploy-check: setup  ## build all Kubernetes overlays and check them: CRDS=folder with KubeRay's definitions, RELEASE=1
	@$(VENV) deploy/kubernetes/check.py $(if $(CRDS),--crds $(CRDS)) $(if $(RELEASE),--release)

deploy-check-run: setup  ## run the pods of an overlay with podman, and a job in them, as root: STORAGE=folder keeps images
	@$(VENV) deploy/kubernetes/check_pods.py $(if $(STORAGE),--storage $(STORAGE))

pin-images: setup  ## write digests of all images for Kubernetes: REGISTRY=registry.example.com/team TAG=1.0
	@$(VENV) deploy/kubernetes/pin_images.py $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(TAG),--tag $(TAG))

fuzz: setup  ## read damaged and hostile files: INPUTS=20000 or MINUTES=10, TARGET=name, SEED=n
	@$(VENV) tests/fuzz/run.py $(if $(INPUTS),--inputs $(INPUTS)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(TARGET),--target $(TARGET)) $(if $(SEED),--seed $(SEED))

audit: setup  ## licenses, bill of materials and known vulnerabilities of the locked packages
	@$(VENV) deploy/audit/audit.py

mutants: setup  ## change the code at random; the unit tests must notice: COUNT=150, SEED=0, FILE=path
	@$(VENV) -m pip install -q 'cosmic-ray>=8.7,<9'
	@$(VENV) tests/mutants/run.py $(if $(COUNT),--count $(COUNT)) $(if $(SEED),--seed $(SEED)) \
		$(if $(FILE),--file $(FILE))

golden: setup  ## train small specs with revision BASE and with this tree, and compare bit for bit
	@$(VENV) tests/golden/compare.py $(BASE) $(if $(TOLERANCE),--tolerance $(TOLERANCE))

bench: setup  ## run all benchmarks, and write the results to bench.json
	@$(VENV) tests/benchmarks/run_all.py --out bench.json

image-check:  ## build the image for CPUs and check it, as root with podman: STORAGE=folder keeps it
	@python3 deploy/docker/check_image.py $(if $(STORAGE),--storage $(STORAGE))
