# HAF-CLAP: `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# uv where it is installed, which is faster than pip.
INSTALL = $(if $(shell command -v uv 2>/dev/null),uv pip install --quiet --compile-bytecode --python $(BIN)/python,\
	$(BIN)/python -m pip install --quiet --disable-pip-version-check)

RUNS ?= runs
PROCESSES ?= 2
ARGS ?=
# What `make run` can be given, DATA=folder as --data folder; `make settings` says what each of them means.
SETTINGS := DATA EXTRA EVALUATION FSD50K NSYNTH PROFILE DEVICE RUNS SCRATCH ONLY SYSTEMS FOLDS SEEDS PRECISION BATCH \
	ACCUMULATION EPOCHS VIEWS WORKERS EXTRA_WEIGHT CHECKPOINT TOKENIZER PASST POSTERIORS PREDICTIONS SURNAME \
	INSTITUTION SET
VARIABLES := $(SETTINGS) RETRAIN PYTHON VENV PROCESSES ARGS QUICK CONFIRM HAF_COMPILE HAF_FAST HAF_PROGRESS \
	HAF_TENSORBOARD
UNKNOWN := $(filter-out $(VARIABLES),$(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $v)),$v)))
$(if $(strip $(UNKNOWN)),$(error unknown variable $(strip $(UNKNOWN)): there are $(VARIABLES)))
# On a CPU glibc keeps freed memory: otherwise every step of a training faults its pages in again.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= -1

.PHONY: help install run settings test test-fast test-slow test-faults lab site demo figures bench lint types clean clean-runs
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo "make run [DATA=folder in BSD10k layout] [EXTRA=BSD35k-CS] [EVALUATION=evaluation set]"
	@echo "         [FSD50K=folder] [NSYNTH=folder of nsynth-<split> folders]"
	@echo "         [PROFILE=mini|full] [DEVICE=cpu|cuda] [RUNS=runs] [SCRATCH=folder for audio stores]"
	@echo "         [ARGS=--plan] [RETRAIN=1] [SET=\"06.views=20 04.epochs=5\"] and what make settings lists"
	@echo "make bench [QUICK=1] [RUNS=runs] [ARGS=\"--stages\" …]"

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in [(3, 11), (3, 12)] else f"Python 3.11 or 3.12 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11 …")'
	@echo "Installing pinned packages into $(VENV) (once; minutes, 2.4 GB) …"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -r requirements.txt
	@# Two packages without their dependencies: hear21passt asks for torchaudio, which its network does not need, and
	@# openvino for openvino-telemetry, which reports to an outside service.
	@$(INSTALL) --no-deps hear21passt==0.0.26 openvino==2026.4.1
	@$(INSTALL) --no-deps --editable .
	@touch $@

install: $(VENV)/.installed  ## build .venv from the pinned requirements

run: install  ## the main job: dataset, notebooks, results table (6 minutes on two cores)
	@$(BIN)/python -m tools.run_notebooks $(if $(RETRAIN),--retrain) \
		$(foreach v,$(SETTINGS),$(if $($v),--$(shell echo $v | tr A-Z_ a-z-) "$($v)")) $(ARGS)

settings: install  ## what make run can be given: DATA=folder is --data folder
	@$(BIN)/python -m tools.run_notebooks --help

PYTEST = $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: install  ## the tests, in PROCESSES=2 processes (HAF_FAST=0: by the networks' plain forward passes)
	@$(PYTEST) -m "not slow" $(ARGS)

test-fast: install  ## the tests of the method alone (under a minute)
	@$(PYTEST) -m fast $(ARGS)

test-slow: install  ## the tests that `make test` leaves out
	@$(PYTEST) -m slow $(ARGS)

test-faults: install  ## kills, errors, damage and hostile input; prints what was tried, handled, lost (ARGS="--kills 100")
	@$(BIN)/python tests/faults $(ARGS)

lab: install  ## open JupyterLab on a working copy of the notebooks, in work/, which git does not see
	@$(BIN)/python -m tools.lab $(ARGS)

site: install  ## the notebooks as pages with sound, contents and formulae, into site/
	@$(BIN)/python -m tools.site $(ARGS)

demo: install  ## drop a sound on a local page: classes, fusion weights, nearest training clips, by the runs of make run
	@$(BIN)/python -m tools.demo "$(RUNS)/embedded-mini" $(ARGS)

figures:  ## publish figures and notebook outputs of the embedded run, three seeds a variant, into figures/ and notebooks/
	@$(MAKE) --no-print-directory run ARGS="--seeds 3 $(ARGS)"
	@$(BIN)/python -m tools.publish --runs "$(RUNS)"

bench: install  ## measure the speed against the alternatives (QUICK=1: about a minute, rough)
	@# Without the memory settings above: who uses the alternatives has glibc's defaults.
	@env -u MALLOC_MMAP_MAX_ -u MALLOC_TRIM_THRESHOLD_ $(BIN)/python -m benchmarks --runs "$(RUNS)" $(if $(QUICK),--quick) $(ARGS)

lint: install  ## ruff, for code and notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: install  ## mypy, for the flat files of haf_utils
	@$(BIN)/mypy

clean:  ## remove the embedded dataset and the caches of tests and lint; trained models stay
	rm -rf data/mini data/tiny .pytest_cache .ruff_cache .mypy_cache .hypothesis

clean-runs:  ## list the results and trained models in RUNS; with CONFIRM=1 remove them
	@for folder in "$(RUNS)"/*-mini "$(RUNS)"/*-full "$(RUNS)"/*-tiny "$(RUNS)"/*-mini-?????? "$(RUNS)"/*-full-?????? "$(RUNS)"/*-tiny-??????; do \
		test -d "$$folder" || continue; \
		models=$$(find "$$folder" -mindepth 2 -maxdepth 2 -name model.safetensors | wc -l); \
		echo "$$folder: $$(du -sh "$$folder" | cut -f1), $$models trained models"; \
		if [ -n "$(CONFIRM)" ]; then rm -rf "$$folder"; fi; \
	done
	@echo "$(if $(CONFIRM),removed,nothing was removed: CONFIRM=1 removes all that is listed)"
