# Every target sets up what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?=
NAME ?=
COVERAGE ?=

# For experiments. Without a GPU two runs train at the same time, each on its share of the cores.
MODEL ?=
TASK ?=
LAUNCHER ?=
JOBS ?= $(if $(shell command -v nvidia-smi),1,2)
OUTPUT ?= outputs
FORMAT ?= terminal

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets and the variables
	@awk -F ':.*## ' '/^[a-z0-9_ -]+:.*## /{printf "  %s\n      %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '  %s\n' '$(EXPERIMENTS)' \
	    '    Run the missing runs of an experiment, then print its table'
	@printf '\nVariables, with their values now; for example: make table2 MODEL=opt_starter JOBS=4\n'
	@printf '  %-24s %s\n' \
	    'MODEL=$(MODEL)' 'model of an experiment; empty: the experiment'\''s own' \
	    'TASK=$(TASK)' 'task of an experiment; empty: the experiment'\''s own' \
	    'LAUNCHER=$(LAUNCHER)' 'packed or slurm; empty: JOBS processes on this machine' \
	    'JOBS=$(JOBS)' 'processes that train runs at the same time: 2 without a GPU, 1 with one' \
	    'OUTPUT=$(OUTPUT)' 'folder of the runs' \
	    'FORMAT=$(FORMAT)' 'format of the tables: terminal, markdown, latex, html or csv' \
	    'RUN=$(RUN)' 'more overrides for run, study and experiments, such as RUN="seed=13 proxy=snip"' \
	    'NAME=$(NAME)' 'what make contracts tests, such as NAME=gradnorm; empty: all of them' \
	    'PYTHON=$(PYTHON)' 'interpreter that makes a new .venv'

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.PHONY: setup
setup: $(VENV)/.done ## Create .venv with the tested package versions

.PHONY: run
run: setup ## Allocate, fine-tune and evaluate on the embedded model and task; RUN="seed=13 proxy=snip" overrides settings
	$(BIN)/python train.py proxy=gradnorm strategy=dynamic $(RUN)

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal --durations 30

# Tests start many processes, each of which would compile the package again.
test test-slow test-exhaustive: export PYTHONDONTWRITEBYTECODE =

.PHONY: test
test: setup ## Run the tests, except the slow ones; COVERAGE=95 also measures coverage, and fails below that
	$(PYTEST) -m 'not slow and not exhaustive' $(if $(COVERAGE),--cov --cov-fail-under=$(COVERAGE))

.PHONY: test-slow
test-slow: setup ## Run the slow tests: they install SLURM and Chromium (as root, with apt-get), start and kill many processes, or build a wheel
	$(PYTEST) -m 'slow and not exhaustive'

.PHONY: test-exhaustive
test-exhaustive: setup ## Run all products of cases of which the other targets test the factors (hours)
	$(PYTEST) -m exhaustive --timeout 0

.PHONY: contracts
contracts: setup ## Run the contract tests of one proxy, selection rule or strategy, including your own: NAME=gradnorm
	$(BIN)/python -m pytest -k '$(NAME)' tests/test_proxies.py tests/test_allocation.py tests/test_strategies.py

.PHONY: lint
lint: files ## Check style, formatting, types and the files in the repository
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: files
files: setup ## Check that the repository has no built package, and no file over 1 MB except the embedded model
	@! git ls-files '*.whl' | sed 's/$$/: a built package/' | grep .
	@git ls-files -z ':!heterolora/harness/data/starter/model' \
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
study: $(STUDY) ## Run the missing runs of the study in docs/study.md, keep their records and print its tables
$(STUDY): setup
	$(BIN)/python scripts/study.py $@ --output $(OUTPUT) $(if $(MODEL),model=$(MODEL)) $(if $(TASK),task=$(TASK)) $(LAUNCH) $(RUN)

.PHONY: study-report
study-report: setup ## Print the study's tables and draw its figures from the records in docs/study, without training
	@set -e; for table in planted screening screening_scarce $(STUDY); do \
	    $(BIN)/python scripts/report.py docs/study --table $$table --format $(FORMAT) \
	        --figures $(OUTPUT)/figures/study/$$table; \
	done

.PHONY: starter
starter: setup ## Build the embedded model and its tokenizer from scratch (half an hour)
	$(BIN)/python scripts/build_starter.py

.PHONY: clean
clean: ## Remove the environment and caches; outputs are kept
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
