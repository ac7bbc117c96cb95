# Two targets do everything: `make demo` and `make test`. Each sets up its environment by itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint clean

demo: $(VENV)/installed
	$(BIN)/wsikit demo

test: $(VENV)/installed-test
	$(BIN)/pytest -n 2 -m "not slow"

test-all: $(VENV)/installed-test
	$(BIN)/pytest -n 2

lint: $(VENV)/installed-test
	$(BIN)/pip install --quiet ruff mypy
	$(BIN)/ruff check wsikit tests pipelines benchmarks
	$(BIN)/ruff format --check wsikit tests pipelines benchmarks
	$(BIN)/mypy wsikit

# as any user installs it: not editable, dependencies resolved by pip
$(VENV)/installed: setup.cfg pyproject.toml $(shell find wsikit -type f -not -name '*.pyc' 2>/dev/null)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build wsikit.egg-info
