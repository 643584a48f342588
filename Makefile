# Every target builds its own virtual environment at first use. VENV=... shares one between checkouts.
PYTHON ?= python3
VENV ?= .venv
# TRANSFORMERS=5.17.0 works in an environment of its own with that release.
TRANSFORMERS ?=
ifneq ($(TRANSFORMERS),)
VENV := .venv-$(TRANSFORMERS)
endif
BIN := $(VENV)/bin

.PHONY: help demo test conformance bench lint format clean

help:           ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("MMGPT needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(TRANSFORMERS),)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
else
	grep -v -E '^(transformers|huggingface_hub)==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[train,dev]' 'transformers==$(TRANSFORMERS)'
endif
	touch $@

demo: $(VENV)/.installed   ## train a nano model from nothing, measure it, write outputs/demo/report.html
	$(BIN)/python -m training.demo

test: $(VENV)/.installed   ## run the tests: offline, on the CPU
	$(BIN)/python -m pytest

conformance: $(VENV)/.installed   ## run transformers' own test suites on our classes; TRANSFORMERS=5.17.0: on that release
	$(BIN)/python -m tests.conformance.reporting --forget
	$(BIN)/python -m pytest -m "" tests/conformance tests/test_generation.py tests/test_export.py tests/test_loading.py tests/test_quantising.py \
		tests/test_packing.py tests/test_distribution.py

DEVICE ?= cpu
bench: $(VENV)/.installed   ## what media cost in tokens and milliseconds; DEVICE=cuda: on a GPU
	$(BIN)/python -m training.benchmark --device $(DEVICE)

lint: $(VENV)/.installed   ## ruff check and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed   ## rewrite the code as ruff formats it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:          ## remove the environment and all outputs
	rm -rf $(VENV) outputs
