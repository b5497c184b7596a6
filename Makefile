# Each target sets up what it needs; `make help` lists the targets.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv

# Python and pip must install into the virtual environment and nowhere else, whatever the user has set for them. Only
# the variables that say where packages come from are kept.
PIP_SOURCES := PIP_CACHE_DIR PIP_CERT PIP_CLIENT_CERT PIP_CONFIG_FILE PIP_DEFAULT_TIMEOUT PIP_EXTRA_INDEX_URL \
  PIP_FIND_LINKS PIP_INDEX_URL PIP_KEYRING_PROVIDER PIP_NO_INDEX PIP_PROXY PIP_RETRIES PIP_TIMEOUT PIP_TRUSTED_HOST
unexport $(filter-out $(PIP_SOURCES),$(filter PIP_% PYTHON%,$(.VARIABLES)))
# For what a pip.conf may say.
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Files are UTF-8 in every locale.
export PYTHONUTF8 := 1
RUN := umask 022 && PYTHONPATH=ci:generator:chart/files/programs $(VENV)/bin/python

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: demo
demo: setup ## Start a cluster, install the caches, pull through them, take one away: about 1 min once all is built
	@$(RUN) -m experiments.run_demo

.PHONY: demo-down
demo-down: setup ## Remove the demo's cluster
	@ci/test-cluster down --name demo

.PHONY: test-fast
test-fast: setup ## Run the tests that need no cluster and no containerd, except the longest ones: about 1 min
	@$(RUN) -m pytest --numprocesses=2 -m 'not slow' tests/unit tests/render tests/editor

# For complete runs only: tests/conftest.py distributes the tests, and a part of them covers a part of the code.
COMPLETE := -m "not long" --numprocesses=4 --cov=registry_cache --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=95

.PHONY: test
test: setup ## Run all tests, those on a cluster included (PYTEST_ARGS="tests/unit" for a part)
	@$(if $(PYTEST_ARGS),,$(RUN) -m cluster.prepare)
	@$(RUN) -m pytest $(or $(PYTEST_ARGS),$(COMPLETE))
	@$(if $(PYTEST_ARGS),,$(RUN) -m machine.shipped_python)

.PHONY: test-programs
test-programs: setup ## Run the tests of the programs on the Python version and the stack size of the image: about 1 min
	@$(RUN) -m machine.shipped_python $(PYTEST_ARGS)

.PHONY: test-argocd
test-argocd: setup ## Build Argo CD, and have it install, change, repair and delete the chart on a test cluster: about 8 min
	@$(RUN) -m cluster.argocd
	@$(RUN) -m pytest tests/cluster/test_argocd*.py

.PHONY: test-surroundings
test-surroundings: setup ## Have nodes join, Services move and webhooks change pods on a test cluster: about 4 min
	@$(RUN) -m cluster.prepare
	@$(RUN) -m pytest tests/cluster/test_surroundings.py tests/cluster/test_joining.py

.PHONY: bench
bench: setup ## Measure commands, programs, and caches beside distribution alone (BENCH_ARGS="first-pull" for a part): about 50 min
	@$(RUN) -m experiments.run_bench $(BENCH_ARGS)

.PHONY: simulate
simulate: setup ## Simulate a roll-out to 1,000 nodes with 1 to 8 replicas, and write docs/images/rollout.svg: about 20 s
	@$(RUN) -m experiments.simulate_rollout

.PHONY: soak
soak: setup ## Pull at random while upstreams fail and caches are killed (SOAK_ARGS="--minutes 10 --seed 1 --link 200mbit"): about 13 min
	@$(RUN) -m experiments.run_soak $(SOAK_ARGS)

.PHONY: faults
faults: setup ## Measure what each fault of a cache costs a pull, and write docs/faults*.md: about 40 min
	@$(RUN) -m experiments.run_faults $(FAULTS_ARGS)

.PHONY: matrix
matrix: setup ## Try each release of Kubernetes and containerd, and write docs/tested-versions.md (MATRIX_ARGS="--kubernetes 1.34"): about 75 min
	@$(RUN) -m experiments.run_matrix $(MATRIX_ARGS)

.PHONY: attack
attack: setup ## Attack a cache in every known way while a node pulls, and write docs/attacks.md (ATTACK_ARGS="--only tokens"): about 15 min
	@$(RUN) -m experiments.run_attacks $(ATTACK_ARGS)

.PHONY: fuzz
fuzz: setup ## Give odd input to everything that gets input from others, for 10 min (FUZZ_ARGS="--minutes 60 --only token")
	@$(RUN) -m experiments.run_fuzz $(FUZZ_ARGS)

.PHONY: load
load: setup ## Let 500 nodes pull from one cache for 10 min (LOAD_ARGS="--nodes 100 --minutes 2 --period 10")
	@$(RUN) -m experiments.run_load $(LOAD_ARGS)

.PHONY: lint
lint: setup ## Check style, types and workflows
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy generator ci chart/files
	$(RUN) -m machine.check_workflows

.PHONY: kind-configuration
kind-configuration: ## Write the configuration of a kind cluster to build/kind.yaml (FAMILY=ipv4, ipv6 or dual)
	@mkdir -p build && sed 's/ipv4/$(FAMILY)/' ci/cluster/manifests/kind.yaml >build/kind.yaml

.PHONY: generate
generate: setup ## Write the schema, the values file, the reference, the dashboard and the rules from the model
	$(RUN) -m registry_cache.regenerate

.PHONY: update
update: setup ## Take newer patch versions of programs and images, and the digests of the images; then run the fast tests
	$(RUN) -m publishing.update
	$(RUN) -m registry_cache.regenerate
	$(MAKE) test-fast

.PHONY: check-images
check-images: setup ## Ask the registry for each image that the chart names, for amd64 and arm64
	$(RUN) -m publishing.check_images

.PHONY: release
release: setup ## Build the files of a tag into build/release (TAG=v1.2.3, RELEASE_ARGS="--pgp-key NAME --pgp-keyring FILE")
	@$(RUN) -m publishing.run_release build --tag "$(TAG)" $(RELEASE_ARGS)

.PHONY: publish
publish: setup ## Push the chart in build/release, and sign it (REGISTRY=ghcr.io/name/charts, PUBLISH_ARGS="--cosign-key FILE")
	@$(RUN) -m publishing.run_release publish --registry "$(REGISTRY)" $(PUBLISH_ARGS)

.PHONY: docs
docs: setup ## Build the documentation site into build/site, with every link checked
	@export NO_MKDOCS_2_WARNING=1; $(RUN) -m mkdocs build --strict

.PHONY: setup
setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	@echo "Setting up Python packages in $(VENV), once: about 1 min" >&2
	@umask 022 && $(PYTHON) -m venv $(VENV)
	@umask 022 && $(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@
