# make test, make demo: each sets up what it needs (.venv, once, and again when the dependencies change).

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
WORKERS ?= 2
TESTS ?= tests
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --max-worker-restart=0

.PHONY: help venv check test coverage lint format demo docs reliability audit clean

help:
	@echo "make test      run the tests, in two processes; TESTS=tests/agents chooses some, WORKERS=4 takes more cores"
	@echo "make check     lint, and the tests that are quick: two minutes"
	@echo "make coverage  run the tests, and print the lines that none of them reaches"
	@echo "make demo      train every family on this machine, and write a report into demo/"
	@echo "make lint      ruff and mypy"
	@echo "make docs      build the documentation into site/"
	@echo "make reliability  break runs, files and services on purpose, quickly; benchmarks/reliability/ has the long forms"
	@echo "make audit     what is installed and its licences, into audit/; known weaknesses, which PyPI is asked for"
	@echo "make format    let ruff rewrite the code"
	@echo "make venv      only install; PYTHON=python3.12 chooses the interpreter"
	@echo "make clean     remove .venv and caches; runs stay"

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "make: $(PYTHON) is not a Python from 3.11 to 3.13; name one, for example: make $(or $(MAKECMDGOALS),test) PYTHON=python3.12" >&2; \
		exit 2; }
	@echo "installing into .venv (once; some minutes, most of it the download of torch and ray)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev,atari,box2d,explain,export,docs]" -c constraints.txt
	@touch $@

test: $(INSTALLED)
	@$(PYTEST) $(TESTS)

check: lint
	@$(PYTEST) -m "not slow" $(TESTS)

coverage: $(INSTALLED)
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered $(TESTS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(INSTALLED)
	@$(BIN)/lab demo --out demo

docs: $(INSTALLED)
	$(BIN)/python -m mkdocs build --strict

reliability: $(INSTALLED)
	@for script in fuzz kill faults soak; do $(BIN)/python benchmarks/reliability/$$script.py --quick || exit 1; done

audit: $(INSTALLED)
	@$(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python -m pip install -q --disable-pip-version-check "cyclonedx-bom~=7.5" "pip-licenses~=5.5" "pip-audit~=2.10"
	@mkdir -p audit
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file audit/sbom.json $(BIN)/python
	.venv-audit/bin/pip-licenses --python $(BIN)/python --order=license --format=markdown --output-file=audit/licences.md
	.venv-audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
