# Two commands: `make demo` and `make test`. Everything they need is set up on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNEL_TESTS := tests/numerics tests/data/test_hashing.py tests/data/test_synthesize.py
EVENTS := benchmarks/out/events.parquet

.PHONY: install demo test check check-compiled check-interpreted bench format lock clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $(STAMP)

demo: install
	$(BIN)/rgals demo

test: install
	$(BIN)/python -m pytest

# The one gate: format, lint, types, import floors, tests with coverage, kernels without their compiler.
# The last two run side by side: the tests of processes wait more than they compute, and the kernels take what is left.
check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory --jobs=2 --output-sync=none check-compiled check-interpreted
	$(BIN)/python -m coverage combine --keep .coverage.compiled .coverage.interpreted
	$(BIN)/python -m coverage report

check-compiled: install
	$(BIN)/python -m coverage run --data-file=.coverage.compiled -m pytest

check-interpreted: install
	NUMBA_DISABLE_JIT=1 nice -n 19 $(BIN)/python -m coverage run --data-file=.coverage.interpreted -m pytest -q -p no:cacheprovider $(KERNEL_TESTS) -m "not slow and not realdata" > .coverage.interpreted.log 2>&1; code=$$?; cat .coverage.interpreted.log; exit $$code

bench: install
	test -f $(EVENTS) || $(BIN)/rgals synthesize --users 30000 --items 40000 --interactions 1000000 --id-type int64 --output $(EVENTS)
	$(BIN)/python benchmarks/sweep.py --data $(EVENTS) --json benchmarks/out/sweep.json
	$(BIN)/python benchmarks/recommend.py --data $(EVENTS) --json benchmarks/out/recommend.json

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
