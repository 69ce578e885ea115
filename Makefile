# make testnet   a whole local network that answers a prompt and pays the provider
# make test      lint, types, contract artifacts and the test suite
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

.PHONY: help setup testnet test lint format types artifacts bench lock clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# //p' Makefile | head -4

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(call step,checking what this machine has,$(PYTHON) testnet/preflight.py)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo '==> creating $(VENV)'; $(PYTHON) -m venv --clear $(VENV); }
	$(call step,installing the locked packages into $(VENV) (600 MB; a minute or two the first time),$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock)
	$(call step,installing yellowstone itself,$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .)
	@# libp2p's trio-typing brings stubs that are older than trio's own types and hide them from mypy
	@rm -rf $(VENV)/lib/python3*/site-packages/trio-stubs
	@touch $(STAMP)

testnet: $(STAMP)
	@$(BIN)/python -m testnet up $(ARGS)

test: $(STAMP) lint types artifacts
	$(call step,tests,$(BIN)/python -m pytest $(ARGS))

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
	$(call step,resolving pyproject.toml into requirements.lock,.cache/uv/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --extra dev --no-emit-index-url --no-header $(ARGS) -o requirements.lock pyproject.toml)
	@if grep -nE '://|file:' requirements.lock; then echo 'FAILED: requirements.lock names an address' >&2; exit 1; fi

# everything that make has made, the downloaded chain and model in .cache included
clean:
	rm -rf $(VENV) .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
