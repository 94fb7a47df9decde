# ipvs-operator: everything that is done with this checkout, by name. `make` alone tells the names.

export PYTHONSAFEPATH := 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
T ?= tests

.DEFAULT_GOAL := help
.PHONY: help venv kernel kubernetes images unit hunt lint test e2e e2e-kind demo cluster cluster-down kind-install bench requirements chart

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1#/' | column -t -s '#' 2>/dev/null \
	  || grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST)

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

images: $(READY) ## operator and agent as images, by buildah, without Docker
	@$(BIN)/ipvs-lab images

unit: $(READY) ## the fast tests: no kernel, under ten seconds
	IPVS_EXAMPLES=quick $(BIN)/pytest -q -m 'not slow' tests/unit

hunt: $(READY) ## cases for the properties that nobody thought of, ten times over: minutes
	for each in 1 2 3 4 5 6 7 8 9 10; do IPVS_EXAMPLES=hunt $(BIN)/pytest -q -m hypothesis tests/unit || exit; done

lint: $(READY) ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: kernel kubernetes $(if $(filter tests,$(T)),lint) ## everything but the benches, or a part without the linters: make test T=path::name
	$(BIN)/pytest $(T) $(if $(filter tests,$(T)),--ignore=tests/bench --ignore=tests/e2e)

e2e: kernel kubernetes ## images, and clusters whose nodes are kernels with kubelets: minutes
	$(BIN)/pytest tests/e2e

# The same tests, in a cluster of kind that has both address families: see tests/e2e/kind.py.
e2e-kind: $(READY) ## the suite in a cluster of kind: kind create cluster --config tests/e2e/kind.yaml
	IPVS_E2E_KIND=$(or $(KIND),kind) $(BIN)/pytest $(addprefix tests/e2e/test_,forwarding.py steady.py outages.py uninstall.py)

demo: kernel ## the story told on a real network; make demo MANIFESTS=dir for your own
	@$(BIN)/python -m compileall -q api kube planner node-agent lab  # agents are started dozens of times
	@$(BIN)/python -m ipvs_lab.demo $(if $(MANIFESTS),--manifests '$(MANIFESTS)')

cluster: $(READY) ## Kubernetes with our chart, an example, and a client's answers; make cluster NODES=5 for more than three
	@$(BIN)/ipvs-lab example $(if $(NODES),--nodes $(NODES))

cluster-down: $(READY) ## end it; nothing is left
	@$(BIN)/ipvs-lab down

kind-install: $(READY) ## the same in a cluster of kind, with Docker: kind create cluster --config kind-config.yaml
	@$(BIN)/ipvs-lab example --kind $(KIND)

bench: kernel kubernetes ## speed and size, in lab kernels with real time and on a native API server
	$(BIN)/pytest -q -s tests/bench

# What images have is what tests had: their versions are those of dev.txt.
requirements: $(READY) ## requirements/*.txt anew, from pyproject.toml
	@$(call compile,dev,--extra agent --extra operator --extra dev --build-deps-for editable)
	@$(call compile,operator,--extra operator --constraint requirements/dev.txt)
	@$(call compile,agent,--extra agent --constraint requirements/dev.txt)
	@$(call compile,build,--only-build-deps --build-deps-for wheel --constraint requirements/dev.txt)

define compile
{ head -n 1 requirements/$(1).txt; \
  $(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --strip-extras \
    --allow-unsafe $(2) --output-file - pyproject.toml; } > requirements/new.txt && mv requirements/new.txt requirements/$(1).txt
endef

chart: $(READY) ## what chart, crds/ and deploy/ have of each other, anew
	@cp crds/*.yaml charts/ipvs-operator/files/crds/
	@cp $(wildcard deploy/[1-4]0-*.yaml) charts/ipvs-operator/files/deploy/
	@helm=$$($(BIN)/ipvs-lab helm) && { head -n 1 deploy/workloads/workloads.yaml; \
	  $$helm template ipvs charts/ipvs-operator --namespace ipvs-system --show-only templates/operator.yaml --show-only templates/agent.yaml \
	  | sed -E '/^# Source|app.kubernetes.io\/(instance|version):|helm.sh\/chart:|^ *$$/d' | tail -n +2; } > deploy/new && mv deploy/new deploy/workloads/workloads.yaml
