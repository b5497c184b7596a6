# Every target sets up what it needs by itself; `make help` lists them.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
RUN := PYTHONPATH=ci:generator $(VENV)/bin/python

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: demo
demo: setup ## Bring up a cluster, install the caches, pull through them, take one away: about 1 min once everything is built
	@$(RUN) -m experiments.run_demo

.PHONY: demo-down
demo-down: setup ## Take the demo's cluster away
	@ci/test-cluster down --name demo

# Of the whole run alone: side by side as tests/conftest.py says, and a part of the tests covers a part of the code.
WHOLE := --numprocesses=4 --cov=registry_cache --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=95

.PHONY: test
test: setup ## Run all tests, the cluster ones included (PYTEST_ARGS="tests/unit" for a part)
	@$(if $(PYTEST_ARGS),,$(RUN) -m cluster.prepare)
	@$(RUN) -m pytest $(or $(PYTEST_ARGS),$(WHOLE))

.PHONY: bench
bench: setup ## Measure commands, programs, and the cache pod beside distribution alone: about 15 min
	@$(RUN) -m experiments.run_bench

.PHONY: soak
soak: setup ## Pull at random while upstreams fail and caches are killed (SOAK_ARGS="--minutes 10 --seed 1"): about 13 min
	@$(RUN) -m experiments.run_soak $(SOAK_ARGS)

.PHONY: faults
faults: setup ## Measure what each fault of a cache costs a pull, for docs/faults.md and docs/faults-bare.md: about 30 min
	@$(RUN) -m experiments.run_faults
	@FAULTS_PAGE=docs/faults-bare.md $(RUN) -m pytest tests/node/test_faults.py

.PHONY: lint
lint: setup ## Check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy generator ci chart/files

.PHONY: generate
generate: setup ## Write the schema, the values file, the reference, the dashboard and the rules from the model
	$(RUN) -m registry_cache.regenerate

.PHONY: setup
setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	@echo "Setting up Python packages in $(VENV), once: about 1 min" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
