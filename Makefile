# make demo: from a clone to a report. make test: the whole suite. Python >= 3.11 and make are all that is needed before.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test crosscheck slow gpu check clean

demo: .venv/core
	$(BIN)/playmeter demo

# Two processes, a thread each: two threads of torch beside another busy process would wait for each other most of the time.
# Two tools are no Python packages. Where one is missing, the tests that need it are left out and the output says so; CI has both.
test: .venv/dev
	@without=""; \
	if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
		echo "NOT TESTED: the report in a browser (Debian: apt install chromium chromium-driver)"; without="not browser"; fi; \
	if ! command -v c++ >/dev/null; then \
		echo "NOT TESTED: the compiled update (Debian: apt install g++)"; without="$${without:+$$without and }not compiler"; fi; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "$$without"

# The same energy counter read by codecarbon and zeus: some thirty more packages.
crosscheck: .venv/dev
	$(PIP_INSTALL) -e '.[crosscheck]'
	$(BIN)/python -m pytest tests/runs/test_crosscheck.py

# Minutes, not seconds: learning curves to their thresholds.
slow: .venv/dev
	$(BIN)/python -m pytest tests/slow

# On a machine with a GPU: what only it can test, the meter beside its power, and its speed. A quarter of an hour.
gpu: .venv/dev
	$(BIN)/python -m pytest -v -m gpu
	$(BIN)/python -m tests.slow.gpu_meter
	$(BIN)/playmeter bench

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.venv/core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "playmeter needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e .
	touch $@

.venv/dev: .venv/core
	$(PIP_INSTALL) -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
