# ipvs-operator: everything that is done with this checkout, by name. `make` alone tells the names.

export PYTHONSAFEPATH := 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
T ?= tests

.DEFAULT_GOAL := help
.PHONY: help venv kernel kubernetes unit lint test demo bench requirements

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1#/' | column -t -s '#' 2>/dev/null \
	  || grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST)

venv: $(READY) ## the virtual environment in .venv, from requirements/dev.txt

$(READY): requirements/dev.txt pyproject.toml lab/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Use make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python cannot make virtual environments: sudo apt-get install python3-venv"; exit 1; }
	@echo "making the virtual environment in $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . -e lab
	@touch $@

kernel: $(READY) ## the lab kernel: found, or built once for this machine
	@$(BIN)/ipvs-lab kernel

kubernetes: $(READY) ## kube-apiserver, etcd and kubectl: found, or built once for this machine
	@$(BIN)/ipvs-lab kubernetes

unit: $(READY) ## the fast tests: no kernel, under ten seconds
	$(BIN)/pytest -q tests/unit

lint: $(READY) ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: kernel kubernetes $(if $(filter tests,$(T)),lint) ## everything but the benches, or a part without the linters: make test T=path::name
	$(BIN)/pytest $(T) $(if $(filter tests,$(T)),--ignore=tests/bench)

demo: kernel ## the story told on a real network; make demo MANIFESTS=dir for your own
	@$(BIN)/python -m ipvs_lab.demo $(if $(MANIFESTS),--manifests '$(MANIFESTS)')

bench: kernel ## speed and size, in a lab kernel with real time
	$(BIN)/pytest -q -s tests/bench

requirements: $(READY) ## requirements/dev.txt anew, from pyproject.toml
	@{ head -n 1 requirements/dev.txt; \
	  $(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --strip-extras \
	    --allow-unsafe --extra agent --extra operator --extra dev --build-deps-for editable --output-file - pyproject.toml; } > requirements/new.txt
	@mv requirements/new.txt requirements/dev.txt
