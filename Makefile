# Every target sets up what it needs. PYTHON chooses the interpreter of a new .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: setup
setup: $(VENV)/.done ## Make .venv with the tested versions

.PHONY: run
run: setup ## Run the main job on the embedded model and task; RUN="seed=13 proxy=snip" overrides
	$(BIN)/python train.py proxy=gradnorm strategy=dynamic $(RUN)

.PHONY: test
test: setup ## Run the tests, with coverage
	$(BIN)/python -m pytest --cov --cov-fail-under=90

.PHONY: lint
lint: setup ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: starter
starter: setup ## Build the embedded model and its tokenizer from nothing (half an hour)
	$(BIN)/python scripts/build_starter.py

.PHONY: clean
clean: ## Remove the environment and caches; outputs stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
