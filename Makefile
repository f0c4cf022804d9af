# make demo: from a clone to a report. make test: the whole suite. Python >= 3.11 and make are all that is needed before.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow check clean

demo: .venv/installed
	$(BIN)/playmeter demo

test: .venv/installed
	$(BIN)/python -m pytest

slow: .venv/installed
	$(BIN)/python -m pytest tests/slow -o addopts="--import-mode=importlib -ra"

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "playmeter needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
