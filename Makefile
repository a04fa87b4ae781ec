# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)
DEMO ?= runs/demo
SECONDS ?= 60

.PHONY: help demo reproduce recipes test test-full fuzz check format benchmarks peers clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/installed  ## Train a small RWKV-4 on real text, then let it write (about 4 minutes)
	DEMO=$(DEMO) BIN=$(BIN) ./recipes/demo.sh

reproduce: $(VENV)/installed-reproduction  ## Show the paper's claims at a small scale, and report (20 minutes)
	$(BIN)/python -m reproduction --scale tiny

test: $(VENV)/installed-dev  ## Run the tests (about ten minutes on two cores)
	$(BIN)/pytest --numprocesses 2 -m "not slow and not gpu"

test-full: $(VENV)/installed-dev  ## Run the slow tests too
	$(BIN)/pytest --numprocesses 2 -m "not gpu"

recipes: $(VENV)/installed  ## Write the recipes of the published models from their tables
	$(BIN)/python recipes/published.py

fuzz: $(VENV)/installed-fuzz  ## Search each parser for bytes that break it (for SECONDS=60 each)
	for file in fuzz/fuzz_*.py; do \
	  $(BIN)/python -m fuzz $$(basename $$file .py | cut -d_ -f2-) -max_total_time=$(SECONDS) || exit 1; \
	done

check: $(VENV)/installed-dev  ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev  ## Bring the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmarks: $(VENV)/installed-dev  ## Measure everything on this machine, beside what one would use instead
	$(BIN)/python -m benchmarks.kernels --output benchmarks/results/kernels.md
	$(BIN)/python -m benchmarks.packed --output benchmarks/results/packed.md
	$(BIN)/python -m benchmarks.inference --output benchmarks/results/inference.md
	$(BIN)/python -m benchmarks.long_generation --output benchmarks/results/long-generation.md
	$(BIN)/python -m benchmarks.long_context --output benchmarks/results/long-context.md
	$(BIN)/python -m benchmarks.sampling --output benchmarks/results/sampling.md
	$(BIN)/python -m benchmarks.saving --output benchmarks/results/saving.md
	$(BIN)/python -m benchmarks.speculation --output benchmarks/results/speculation.md
	$(BIN)/python -m benchmarks.tokenizers --output benchmarks/results/tokenizers.md
	$(BIN)/python -m benchmarks.training --output benchmarks/results/training.md

# Built by gcc 12, the AMX kernels of llama.cpp crash, so it is built without them.
NO_AMX := $(if $(filter x86_64,$(shell uname -m)),-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)

peers: $(VENV)/installed-dev  ## Install the engines that the benchmarks compare with (compiles llama.cpp: minutes)
	CFLAGS="$(NO_AMX)" CXXFLAGS="$(NO_AMX)" CMAKE_ARGS=-DGGML_NATIVE=ON $(PIP) llama-cpp-python
	$(PIP) --editable '.[dev,peers]'

clean:  ## Remove what was built, but not what was trained
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(SOURCES) | $(VENV)/bin/python
	@echo "Installing receptance and compiling its kernels into $(VENV) …"
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(SOURCES) | $(VENV)/bin/python
	@echo "Installing receptance, its kernels and the test tools into $(VENV) …"
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-reproduction: $(SOURCES) | $(VENV)/bin/python
	@echo "Installing receptance, its kernels and the baselines into $(VENV) …"
	$(PIP) --editable '.[reproduction]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-fuzz: $(SOURCES) | $(VENV)/bin/python
	@echo "Installing receptance, its kernels and the fuzzer into $(VENV) …"
	$(PIP) --editable '.[fuzz]'
	@touch $@ $(VENV)/installed
