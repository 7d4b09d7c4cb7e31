PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install test fast lint quickstart docs clean

# torch is installed first and pinned: left to the resolver it brings gigabytes of CUDA to a CPU machine.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

# Files go to the workers in the order that tests/conftest.py gives them: slow ones first. Bytecode is kept, whatever
# the shell says: without it each worker compiles hundreds of files anew, and pytest rewrites their asserts.
test fast: export PYTHONDONTWRITEBYTECODE =

# Ray is for its own tests alone, and 79 MB to download.
test: install lint
	$(BIN)/python -m pip install --quiet -c constraints.txt ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What runs before a push: all but the tests that are marked slow.
fast: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quickstart: install
	$(BIN)/contrapose quickstart

# The documents as a site of plain files, in site/.
docs: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build

clean:
	rm -rf quickstart site $(VENV)
