# Every target sets up what it needs. PYTHON chooses the interpreter of a new .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?=
NAME ?=

# For experiments. Without a GPU two runs go side by side, each on its share of the cores.
MODEL ?=
TASK ?=
LAUNCHER ?=
JOBS ?= $(if $(shell command -v nvidia-smi),1,2)
OUTPUT ?= outputs
FORMAT ?= terminal

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9_ -]+:.*## /{printf "  %s\n      %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '  %s\n' '$(EXPERIMENTS)' \
	    '    Run what is missing of an experiment and report it; MODEL= TASK= LAUNCHER= JOBS= OUTPUT= FORMAT= RUN='

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
test: setup ## Run the tests, except the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

.PHONY: test-all
test-all: setup ## Run all tests with coverage; the slow ones install SLURM and Chromium (root and apt-get), kill many processes or build a wheel
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-fail-under=90

.PHONY: contracts
contracts: setup ## Run the contract tests on one proxy, selection rule or strategy, such as your own: NAME=gradnorm
	$(BIN)/python -m pytest -k '$(NAME)' tests/test_proxies.py tests/test_allocation.py tests/test_strategies.py

.PHONY: lint
lint: files ## Check style, formatting, types and what is in the repository
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: files
files: setup ## Check that the repository has no built package and no file above 1 MB except the embedded model
	@! git ls-files '*.whl' | sed 's/$$/: a built package/' | grep .
	@git ls-files -z ':!heterolora/data/starter/model' \
	    | xargs -0 $(BIN)/check-added-large-files --enforce-all --maxkb=1000

STUDY := $(patsubst conf/experiment/%.yaml,%,$(wildcard conf/experiment/study_*.yaml))
EXPERIMENTS := $(filter-out $(STUDY),$(patsubst conf/experiment/%.yaml,%,$(wildcard conf/experiment/*.yaml)))
LAUNCH = $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER) $(if $(filter packed,$(LAUNCHER)),hydra.launcher.n_jobs=$(JOBS)),$(if $(filter-out 1,$(JOBS)),hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS)))
CHOSEN = $(if $(MODEL),model=$(MODEL)) $(if $(TASK),task=$(TASK)) output=$(OUTPUT) $(LAUNCH) $(RUN)

.PHONY: $(EXPERIMENTS)
$(EXPERIMENTS): setup
	@status=0; $(BIN)/python train.py -m +experiment=$@ $(CHOSEN) || status=$$?; \
	case $$status in 130|143) exit $$status;; esac; \
	$(BIN)/python scripts/report.py $(OUTPUT) --table $(patsubst table%,%,$@) --format $(FORMAT) \
	    --figures $(OUTPUT)/figures/$@ || exit $$?; \
	exit $$status

.PHONY: study $(STUDY)
study: $(STUDY) ## Run what is missing of the study in docs/study.md, keep its records and report it
$(STUDY): setup
	$(BIN)/python scripts/study.py $@ --output $(OUTPUT) $(if $(MODEL),model=$(MODEL)) $(if $(TASK),task=$(TASK)) $(LAUNCH) $(RUN)

.PHONY: starter
starter: setup ## Build the embedded model and its tokenizer from scratch (half an hour)
	$(BIN)/python scripts/build_starter.py

.PHONY: clean
clean: ## Remove the environment and caches; outputs stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
