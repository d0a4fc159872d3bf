# One entrance for people, the pipeline and the pre-commit hooks: `make help` lists it.
PYTHON ?= $(shell sh local/find-python.sh)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--custom-compile-command 'make requirements' --no-emit-index-url

.DEFAULT_GOAL := help
.NOTPARALLEL: # `make package plan deploy` is an order
.PHONY: help demo local ops test check lint format types pytest simulate explore storm properties requirements upgrade clean

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z-]+:[^#]*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## the main job on this machine, nothing to configure
	@$(BIN)/python -m local.demo

local: $(READY) ## the demo's Google Cloud with the function in it, kept up until Ctrl-C, to publish events to
	@$(BIN)/python -m local.serve

ops: $(READY) ## the commands for operators: check, list, story, redrive, discard, forget (ARGS="story JOB_ID")
	@$(BIN)/python -m ops $(or $(ARGS),--help)

test: $(READY) check pytest ## every test, and every check

check: lint types ## lint, format, who may import whom, strict types

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache

format: $(READY) ## let ruff put the code in order
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(READY)
	@$(BIN)/mypy

pytest: $(READY)
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

simulate: $(READY) ## SEEDS=10000 simulated runs with injected faults, FROM=a seed; SEED=543 tells one, WHOLE=1 with every effect; WATCHED=1 runs those with watched jobs; VERSIONS=1 lets releases share the ledger; LIVENESS=1 has faults that never heal; PLANTED=1 looks for every mutant; LAPSES=1 counts claims that lapse unsent
	@$(BIN)/python -m tests.simulation $(SEEDS:%=--seeds %) $(FROM:%=--from %) $(SEED:%=--seed %) $(WHOLE:1=--whole) $(MUTANT:%=--mutant %) $(WATCHED:1=--watched) $(VERSIONS:1=--versions) $(LIVENESS:1=--liveness) $(PLANTED:1=--planted) $(LAPSES:1=--lapses)

explore: $(READY) ## every schedule of two deliveries within SWITCHES=2 and FAULTS=2, for SECONDS=1800 at most; PLANTED=1 looks for every mutant
	@$(BIN)/python -m tests.simulation.explore $(SWITCHES:%=--switches %) $(FAULTS:%=--faults %) $(SECONDS:%=--seconds %) $(CORES:%=--cores %) $(MUTANT:%=--mutant %) $(PLANTED:1=--planted)

storm: $(READY) ## STORM_SECONDS=600 of crashes and broken connections, on Google's emulators; VERSIONS=1 with two releases
	@STORM_SECONDS=$(or $(STORM_SECONDS),600) $(BIN)/pytest -q tests/e2e/test_crash_storm.py -k $(if $(VERSIONS),two-releases,one-release)

properties: $(READY) ## EXAMPLES=20000 inputs for each property of the parsers
	@EXAMPLES=$(or $(EXAMPLES),20000) $(BIN)/pytest -q -n 2 --timeout 0 tests/properties

requirements: $(READY) ## compile the pinned requirements from pyproject.toml (keeps pins that still fit)
	$(UV_COMPILE) pyproject.toml -o requirements.txt
	$(UV_COMPILE) --group dev -c requirements.txt -o requirements-dev.txt

upgrade: UV_COMPILE += --upgrade
upgrade: requirements ## the same, with the newest versions

clean: ## remove what the other targets made
	rm -rf $(VENV) .venv-* build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): requirements.txt requirements-dev.txt
	@echo "Installing into $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt -r requirements-dev.txt
	@touch $@

# --- infrastructure and delivery: infra/README.md tells the whole way ---
# Environments of their own: the delivery's tools, the policy scanner (it needs older versions of the same packages),
# the function alone (only requirements.txt), and Terraform's stand-in provider where it lies beside the project.
STANDIN_REQUIREMENTS := $(wildcard ../shared/terraform-google-standin/requirements.txt)
ENVIRONMENTS := $(addsuffix /.ready,.venv-tools .venv-checkov .venv-runtime $(if $(STANDIN_REQUIREMENTS),.venv-standin))
INSTALL = $(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D) && \
	VIRTUAL_ENV=$(@D) $(BIN)/uv pip $(1) $< --compile-bytecode --quiet && touch $@

.PHONY: package sbom audit scan tested deployed checked plan deploy smoke rollback prices infra-requirements
pytest: $(ENVIRONMENTS)
requirements: infra-requirements

# These need Python, git, terraform and gcloud, and no package: what has rights in the cloud runs no other code.
package: ## the function's archive, named by its content's hash, into build/
	@$(PYTHON) infra/delivery/package.py

sbom: .venv-tools/.ready .venv-runtime/.ready ## what the function is made of (CycloneDX), into build/
	@mkdir -p build
	@.venv-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible $(SBOM_FLAGS) -o build/sbom.json .venv-runtime/bin/python

audit: .venv-tools/.ready ## fail on known vulnerabilities in what the function is made of
	@.venv-tools/bin/python infra/delivery/audit.py

scan: .venv-checkov/.ready ## policy check of infra/
	@.venv-checkov/bin/checkov --config-file infra/checkov.yaml

tested:
	@$(PYTHON) infra/delivery/deploy.py tested

deployed:
	@$(PYTHON) infra/delivery/deploy.py deployed

plan: ## upload the archive, show what a deployment would change (PROJECT_ID=... REGION=...)
	@$(PYTHON) infra/delivery/deploy.py plan

deploy: ## carry out the plan, verify it with a real event, put the last verified archive back if that fails
	@$(PYTHON) infra/delivery/deploy.py apply

smoke: ## one event through the deployed function and back (PROJECT_ID=...)
	@$(PYTHON) infra/delivery/smoke.py

rollback: ## put the last verified archive back, or OBJECT=archive-job-retry-....zip
	@$(PYTHON) infra/delivery/deploy.py rollback $(OBJECT)

checked: $(READY)
	@$(BIN)/python -m ops check --project "$(PROJECT_ID)"

prices: $(READY) ## what it costs, with the arithmetic
	@$(BIN)/python infra/delivery/prices.py

infra-requirements: $(READY)
	@for name in tools checkov; do $(UV_COMPILE) infra/requirements-$$name.in -o infra/requirements-$$name.txt || exit 1; done

.venv-tools/.ready .venv-checkov/.ready: .venv-%/.ready: infra/requirements-%.txt | $(READY)
	@$(call INSTALL,sync --require-hashes)

.venv-runtime/.ready: requirements.txt | $(READY)
	@$(call INSTALL,sync --require-hashes)

.venv-standin/.ready: $(STANDIN_REQUIREMENTS) | $(READY)
	@$(call INSTALL,install --requirement)

# --- speed ---
.PHONY: bench
bench: $(READY) ## this function and what one would write instead, side by side (BENCH=--quick for a short look)
	@$(BIN)/python -m tests.bench $(BENCH)

# --- the picture of the dashboard ---
.PHONY: dashboard
dashboard: $(READY) $(if $(STANDIN_REQUIREMENTS),.venv-standin/.ready) ## draw docs/dashboard.svg from infra/dashboard.json and a minute of a local run
	@$(BIN)/python -m tests.monitoring
