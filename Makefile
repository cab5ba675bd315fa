# Everything a fresh clone needs: Python >= 3.10 and make. Every target makes its own set-up in $(VENV).
#   make demo    every norm on the EMG recording; table and picture in results/demo
#                again: shows them; make demo ARGS=--overwrite trains anew
#   make test    all checks: lint, types, tests, doctests, quick example, docs, package
# A virtual environment of your own:  make test VENV=path/to/venv

VENV ?= .venv
PY := $(VENV)/bin/python
# The stamp's name holds a checksum of what the installation depends on, so an edit there installs anew.
KEY := $(shell cat pyproject.toml constraints.txt setup.py manifoldnorm/linalg/native/*.?pp | cksum | cut -d ' ' -f 1)
DEMO_READY := $(VENV)/.ready-demo-$(KEY)
DEV_READY := $(VENV)/.ready-dev-$(KEY)
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS)

.PHONY: help demo test lint types unit doctest quick docs build bench format clean distclean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile
	@echo "pieces of make test: lint types unit doctest quick docs build; also: bench format clean distclean"

demo: $(DEMO_READY)
	$(PY) examples/spd_networks.py --dataset emg --norm all --out results/demo $(ARGS)

test: lint types unit doctest quick docs build
	@echo "make test: all checks passed"

lint: $(DEV_READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(DEV_READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(DEV_READY)
	$(PY) -m mypy

unit: $(DEV_READY)
	$(PYTEST) tests

doctest: $(DEV_READY)
	$(PYTEST) manifoldnorm
	OMP_NUM_THREADS=1 $(PY) docs/snippets.py README.md docs

# the other examples run, are interrupted and go on in tests/test_example_*.py
quick: $(DEV_READY)
	rm -rf results/quick
	$(PY) examples/spd_networks.py --quick --out results/quick

docs: $(DEV_READY)
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

build: $(DEV_READY)
	rm -rf dist
	$(PY) -m build --outdir dist .
	$(PY) -m zipfile -l dist/*.whl | grep 'manifoldnorm/py.typed'

bench: $(DEV_READY)
	OMP_NUM_THREADS=1 $(PY) -m manifoldnorm bench norms --dtype float64

$(DEMO_READY):
	@$(call install,demo)
	@touch $@

$(DEV_READY):
	@$(call install,demo$(comma)dev$(comma)docs$(comma)gpu-test$(comma)plot$(comma)sklearn)
	@touch $@ $(DEMO_READY)

comma := ,

# $(VENV)/.installing marks an unfinished installation: after an interruption a half-written package could pass for a
# whole one, so the environment is made anew (pip's cache keeps the downloads).
define install
set -e; \
python=$$($(find_python)); \
if [ -e $(VENV)/.installing ] || ! $(PY) -c "import pip" 2>/dev/null; then \
  echo "creating $(VENV) with $$python"; \
  $$python -m venv --clear $(VENV); \
fi; \
touch $(VENV)/.installing; \
rm -f $(VENV)/.ready-*; \
echo "installing manifoldnorm[$(1)] into $(VENV) (once; a few minutes)"; \
$(PY) -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[$(1)]"; \
rm -f $(VENV)/.installing
endef

# The first interpreter that is new enough; PYTHON=... chooses another.
define find_python
for p in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python; do \
  if $$p -c "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))" 2>/dev/null; then echo $$p; exit 0; fi; \
done; \
echo "manifoldnorm needs Python >= 3.10 with venv (on Debian and Ubuntu: the package python3-venv)" >&2; exit 1
endef

clean:
	rm -rf build dist docs/_build docs/_figures results/quick .mypy_cache .pytest_cache .ruff_cache *.egg-info

distclean: clean
	rm -rf $(VENV)
