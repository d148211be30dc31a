# Every target sets up what it needs. PYTHON chooses the interpreter of a new .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?=

# Of the experiments below. Without a GPU two runs go side by side, each on its share of the cores.
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
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-fail-under=90

.PHONY: lint
lint: setup ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

EXPERIMENTS := table2 table3 table4 table5 table6 table9
QUESTIONS := frequency importance learning_rate stability
.PHONY: $(EXPERIMENTS) $(QUESTIONS)
table2: SWEEPS = table2/baseline table2/proxies
table3: SWEEPS = table3/lora table3/shortcuts
table4: SWEEPS = table4/r2 table4/r8 table4/control
table5: SWEEPS = table5/rank8 table5/rank4 table5/rank2
table6: SWEEPS = table6/rank8 table6/rank4 table6/rank2
frequency: SWEEPS = frequency/baseline frequency/searched
table9 importance learning_rate stability: SWEEPS = $@

table2 table3 table4 table5 table6 table9: ## Run what is missing of a table and print it; MODEL= TASK= LAUNCHER= JOBS= RUN=
frequency importance learning_rate stability: ## The same for a question that the paper leaves open

LAUNCH = $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER),$(if $(filter-out 1,$(JOBS)),hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS)))
CHOSEN = $(if $(MODEL),model=$(MODEL)) $(if $(TASK),task=$(TASK)) output=$(OUTPUT) $(LAUNCH) $(RUN)

$(EXPERIMENTS) $(QUESTIONS): setup
	@status=0; pids=; for sweep in $(SWEEPS); do \
	    $(BIN)/python train.py -m +experiment=$$sweep $(CHOSEN) $(if $(LAUNCHER),& pids="$$pids $$!",|| status=$$?); \
	    case $$status in 130|143) exit $$status;; esac; \
	done; \
	for pid in $$pids; do wait $$pid || status=$$?; done; \
	$(BIN)/python scripts/report.py $(OUTPUT) --table $(patsubst table%,%,$@) --format $(FORMAT) \
	    --figures $(OUTPUT)/figures/$@ || exit $$?; \
	exit $$status

.PHONY: starter
starter: setup ## Build the embedded model and its tokenizer from nothing (half an hour)
	$(BIN)/python scripts/build_starter.py

.PHONY: clean
clean: ## Remove the environment and caches; outputs stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info
