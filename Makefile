PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow check bench bench-gpu fuzz clean

demo: $(VENV)/.installed
	$(BIN)/croc demo

# Two processes, a file of tests to each at a time, so that what a file's tests share is made once.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.audit

bench: $(VENV)/.installed
	$(BIN)/python -m tests.bench

bench-gpu: $(VENV)/.installed
	$(BIN)/python -m tests.bench.gpu

fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz --minutes 60

# torch first, then what deepspeed's build looks for, then deepspeed without build isolation: it imports torch to build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt setuptools wheel numpy
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation deepspeed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
