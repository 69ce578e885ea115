# make testnet   a whole local network that answers a prompt and pays the provider
# make test      lint, types, contract artifacts and the test suite
# make explore   the tests that draw by chance, with new seeds, for MINUTES=10
# make test-exl2 the GPU engine's Python on a CPU, with the real exllamav2 (1 GB in a virtual environment of its own)
# make test-gpu  the GPU engine on a GPU; says so where there is none
# PYTHON=...     another Python than python3, for the virtual environment
# ARGS="..."     passed on, e.g. make testnet ARGS="--keep"  or  make test ARGS="-k merkle"

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

# $(call step,what it does,command): say it, do it, and name it where it fails
define step
@printf '==> %s\n' '$(1)'
@$(2) || { printf '\nFAILED: %s\n  command: %s\n' '$(1)' '$(2)' >&2; exit 1; }
endef

.PHONY: help setup testnet test explore test-exl2 test-gpu lint format types artifacts bench lock lock-exl2 clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# //p' Makefile | head -7

setup: $(STAMP)

# the lock is complete, so nothing is resolved: pip would look for extras of what is pinned, and find releases that aren't
$(STAMP): requirements.lock pyproject.toml
	$(call step,checking what this machine has,$(PYTHON) testnet/preflight.py)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo '==> creating $(VENV)'; $(PYTHON) -m venv --clear $(VENV); }
	$(call step,installing the locked packages into $(VENV) (600 MB; a minute or two the first time),$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock)
	$(call step,installing yellowstone itself,$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .)
	@# libp2p's trio-typing brings stubs that are older than trio's own types and hide them from mypy
	@rm -rf $(VENV)/lib/python3*/site-packages/trio-stubs
	@touch $(STAMP)

testnet: $(STAMP)
	@$(BIN)/python -m testnet up $(ARGS)

test: $(STAMP) lint types artifacts
	$(call step,tests,$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS))

# chance: the suite's seeds are fixed, this draws new ones for MINUTES
MINUTES ?= 10

explore: $(STAMP)
	@$(BIN)/python -m tests.explore --minutes $(MINUTES) $(ARGS)

EXL2_VENV := .venv-exl2
EXL2_BIN := $(EXL2_VENV)/bin
EXL2_STAMP := $(EXL2_VENV)/.installed
EXL2_LOCKS := tests/exl2/requirements.lock tests/exl2/exllamav2.lock
# pytest's settings name plug-ins of the other environment
EXL2_TESTS := -m pytest -o addopts='--import-mode=importlib --strict-markers --strict-config -ra'

$(EXL2_STAMP): $(EXL2_LOCKS)
	@$(EXL2_BIN)/python -m pip --version >/dev/null 2>&1 || { echo '==> creating $(EXL2_VENV)'; $(PYTHON) -m venv --clear $(EXL2_VENV); }
	$(call step,installing CPU PyTorch and exllamav2 into $(EXL2_VENV) (pip must find torch 2.13.0+cpu),$(EXL2_BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/exl2/requirements.lock)
	@$(EXL2_BIN)/python -m pip install --quiet --no-deps --require-hashes -r tests/exl2/exllamav2.lock
	@touch $(EXL2_STAMP)

test-exl2: $(EXL2_STAMP)
	$(call step,the real exllamav2 on a CPU behind our engine (nothing here runs on CUDA),$(EXL2_BIN)/python $(EXL2_TESTS) tests/exl2 $(ARGS))

GPU_VENV := .venv-gpu

test-gpu:
	@if ! nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then \
		echo 'NOT RUN: test-gpu. nvidia-smi lists no GPU here, so nothing of the ExLlamaV2 engine has run on CUDA.'; \
	else $(MAKE) --no-print-directory test-gpu-here; fi

.PHONY: test-gpu-here
test-gpu-here:
	@test -x $(GPU_VENV)/bin/python || $(PYTHON) -m venv $(GPU_VENV)
	$(call step,installing CUDA PyTorch and exllamav2 into $(GPU_VENV),$(GPU_VENV)/bin/python -m pip install --quiet -r tests/exl2/requirements-gpu.in)
	$(call step,the ExLlamaV2 engine on a GPU of this machine,env YELLOWSTONE_GPU=1 $(GPU_VENV)/bin/python $(EXL2_TESTS) -s tests/exl2/test_exl2_gpu.py $(ARGS))

lint: $(STAMP)
	$(call step,ruff check,$(BIN)/ruff check .)
	$(call step,ruff format --check,$(BIN)/ruff format --check .)

types: $(STAMP)
	$(call step,mypy --strict,$(BIN)/mypy)

artifacts: $(STAMP)
	$(call step,contract artifacts are what their sources compile to,$(BIN)/python -m contracts.build --check)

format: $(STAMP)
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python -m testnet.bench $(ARGS)

# versions that the lock already names are kept; make lock ARGS=--upgrade moves them
lock:
	@test -x .cache/uv/bin/uv || { $(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet 'uv>=0.9'; }
	$(call step,resolving pyproject.toml into requirements.lock,.cache/uv/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --extra dev --extra plot --no-emit-index-url --no-header $(ARGS) -o requirements.lock pyproject.toml)
	@if grep -nE '://|file:' requirements.lock; then echo 'FAILED: requirements.lock names an address' >&2; exit 1; fi

lock-exl2:
	@test -x .cache/uv/bin/uv || { $(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet 'uv>=0.9'; }
	$(call step,resolving tests/exl2/requirements.in,.cache/uv/bin/uv pip compile --quiet --no-config --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-header $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) $(ARGS) -o tests/exl2/requirements.lock tests/exl2/requirements.in)
	@if grep -nE '://|file:' tests/exl2/requirements.lock; then echo 'FAILED: the lock names an address' >&2; exit 1; fi

# everything that make has made, the downloaded chain and model in .cache included
clean:
	rm -rf $(VENV) $(EXL2_VENV) $(GPU_VENV) .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
