# Makes an environment in .venv and runs what there is to run: `make help`.

PYTHON ?= python3
VENV ?= .venv
DEVICE ?= $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo cuda || echo cpu)
TORCH_INDEX_URL ?=
PYTEST_ARGS ?=
DEMO_ARGS ?=

ifeq ($(filter $(DEVICE),cpu cuda),)
$(error DEVICE is cpu or cuda, not '$(DEVICE)')
endif

BIN := $(VENV)/bin
LOCK := requirements/$(DEVICE).lock
STAMP := $(VENV)/.installed-$(DEVICE)
TORCH = $(shell sed -n '/^torch==/p' $(LOCK))
PIP := $(BIN)/python -m pip

.DEFAULT_GOAL := install
.PHONY: install venv demo test test-slow lint format readme clean clean-venv help

install venv: $(STAMP)  ## make .venv with everything pinned, for the CPU or CUDA, whichever the machine has

$(STAMP): $(LOCK) pyproject.toml
	@for made in $(VENV)/.installed-*; do test ! -e "$$made" -o "$$made" = '$(STAMP)' || { \
	  echo "make: $(VENV) was made for $${made##*-}, and this is $(DEVICE): run 'make clean-venv', or give VENV=another folder" >&2; \
	  exit 2; }; done
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' || { \
	  echo "make: Python 3.11 or 3.12 is needed and $(PYTHON) is neither: give PYTHON=path/to/python3.11" >&2; exit 2; }
	@echo 'make: installing for $(DEVICE) into $(VENV) (some minutes; 4 GB on disk for the CPU, more for CUDA)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) $(TORCH)
	$(PIP) install --quiet --no-deps -r $(LOCK)
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@echo 'make: checking that vllm, deepspeed, faiss and ray can be imported'
	@VLLM_LOGGING_LEVEL=ERROR $(if $(filter cpu,$(DEVICE)),DS_ACCELERATOR=cpu) $(BIN)/python -c 'import vllm, deepspeed, faiss, ray'
	@touch $@
	@echo "make: done; $(BIN)/semievol --help shows the command, 'make demo' runs it"

demo: install  ## one whole round, on a real small model and real text (at most 15 minutes on 2 cores)
	$(BIN)/python -m benchmarks.demo $(DEMO_ARGS)

test: install  ## the CPU test suite without its slow tests (10 minutes on 2 cores)
	$(BIN)/python -m pytest -m 'not slow' $(PYTEST_ARGS)

test-slow: install  ## the slow tests: real models, chaos, several hosts (half an hour on 2 cores)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: install  ## ruff check, ruff format --check, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

format: install  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: install  ## write the generated tables of docs/ anew
	$(BIN)/python tests/readme_reference.py

clean:  ## remove caches and build leftovers; the environment, runs and models stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv:  ## remove the environment
	rm -rf $(VENV)

help:  ## show this list
	@echo 'make [target] [DEVICE=cpu|cuda] [PYTHON=python3.11] [VENV=.venv] [TORCH_INDEX_URL=...]'
	@sed -n 's/^\([a-z -]*\):[^#]*##  *\(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  %-13s %s\n", $$1, $$2}'
	@echo "TORCH_INDEX_URL: where torch is fetched from, such as PyTorch's CPU wheel index; else pip's usual index."
