# Two commands do all their own set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STEPS ?= 300
SEEDS ?= 1
DEMO := runs/demo

.PHONY: demo test test-slow lint docs bench clean

demo: $(VENV)/.demo
	rm -rf $(DEMO)
	$(BIN)/metrize compare --task digits --model layers=16 --steps $(STEPS) --seeds $(SEEDS) --out $(DEMO)

# tensors are tiny: one thread each, and a process for every core
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# every test, the long ones too
test-slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "slow or not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.dev
	$(PIP) install -c constraints.txt -e '.[bench]'
	for script in benchmarks/*_step.py; do $(BIN)/python $$script || exit 1; done
	$(BIN)/python experiments/scale.py  # which computes with their ratios

$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "metrize needs Python 3.11 or newer: make demo PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch
	@touch $@

$(VENV)/.demo: $(VENV)/.base
	$(PIP) install -c constraints.txt -e '.[cli,plot,data]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) runs site
