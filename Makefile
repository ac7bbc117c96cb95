# Each target sets up its environment by itself, in .venv. First `make demo` or `make test`, then `make lint`.
# On a machine without a GPU, `make demo TORCH_INDEX=ADDRESS` installs the small build of torch (see README.md).
PYTHON ?= python3
VENV ?= .venv
# address of the package index with the wanted build of torch; empty: the default one
TORCH_INDEX ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CHECKED := wsikit tests pipelines benchmarks docs/site
# the examples in the docstrings of the package as it is installed, together with the tests
EVERYTHING := --doctest-modules --pyargs tests/ wsikit
# the rooms that depend most on the versions of zarr, tifffile, imagecodecs and tiffslide
FILES := tests/store tests/slides tests/tiling tests/exporters

.PHONY: demo test test-all test-files docs lint audit clean

demo: $(VENV)/installed
	$(BIN)/wsikit demo

test: $(VENV)/installed-test
	$(BIN)/pytest -n 2 -m "not slow" $(EVERYTHING)

test-all: $(VENV)/installed-test
	$(BIN)/pytest -n 2 $(EVERYTHING)

# the tests of reading and writing files, for a second version of Python
test-files: $(VENV)/installed-test
	$(BIN)/pytest -n 2 -m "not slow" $(FILES)

# the site with the notebooks' pictures, into site/; a warning is an error
docs: $(VENV)/installed-test
	$(BIN)/python docs/site/build.py site --notebooks

lint: $(VENV)/installed-lint
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy wsikit
	$(BIN)/pytest --doctest-modules --pyargs wsikit

# known holes in the versions that are installed; asks the package index about each of them
audit: $(VENV)/installed
	$(PIP) install pip-audit
	$(BIN)/pip-audit --local

# as any user installs it: not editable, dependencies resolved by pip
$(VENV)/installed: setup.cfg pyproject.toml $(shell find wsikit -type f -not -name '*.pyc' 2>/dev/null)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing wsikit and what it needs into $(VENV): about 7 GB with torch for CUDA."
	@echo "This takes some minutes the first time."
	test -z "$(TORCH_INDEX)" || $(PIP) install torch torchvision --index-url "$(TORCH_INDEX)"
	$(PIP) install .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install '.[test]'
	touch $@

$(VENV)/installed-lint: $(VENV)/installed-test
	$(PIP) install '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) build site wsikit.egg-info
