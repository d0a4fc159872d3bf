# One entrance for people, the pipeline and the pre-commit hooks: `make help` lists it.
PYTHON ?= $(shell sh local/find-python.sh)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--custom-compile-command 'make requirements' --no-emit-index-url

.DEFAULT_GOAL := help
.PHONY: help demo test check lint format types unit requirements upgrade clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(READY) ## the main job on this machine, nothing to configure
	@$(BIN)/python -m local.demo

test: $(READY) check unit ## every test, and every check

check: lint types ## lint, format check, strict types

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(READY) ## let ruff put the code in order
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: $(READY)
	@$(BIN)/mypy

unit: $(READY)
	@$(BIN)/pytest -n 2 --dist loadfile

requirements: $(READY) ## compile the pinned requirements from pyproject.toml (keeps pins that still fit)
	$(UV_COMPILE) pyproject.toml -o requirements.txt
	$(UV_COMPILE) --group dev -c requirements.txt -o requirements-dev.txt

upgrade: UV_COMPILE += --upgrade
upgrade: requirements ## the same, with the newest versions

clean: ## remove what the other targets made
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): requirements.txt requirements-dev.txt
	@echo "Installing into $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt -r requirements-dev.txt
	@touch $@
