# Everything sets itself up: only Python >= 3.10, a C++20 compiler and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := $(wildcard kernels/cpu/*) CMakeLists.txt pyproject.toml constraints.txt

.PHONY: setup demo test bench report lint format clean

setup: $(VENV)/.ready

$(VENV)/.ready: $(KERNELS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt "scikit-build-core>=0.11" "nanobind>=2.4" "cmake>=3.20" ninja
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation --editable ".[dev,report,service,train]"
	touch $@

demo: setup
	$(BIN)/hegpu demo --out demo-out

test: setup
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m bench.run

report: setup
	$(BIN)/hegpu report

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror kernels/cpu/*

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i kernels/cpu/*

clean:
	rm -rf $(VENV) .venvs build demo-out
