# make demo: set up and answer the question in small. make test: set up, lint, types, all tests.
# make soak: runs killed at random points for ten minutes (LABELREG_SOAK_SECONDS, LABELREG_SOAK_SEED).
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: setup demo test soak ui bench
.DELETE_ON_ERROR:

setup: $(VENV)/ready

# the pip lines of conda.yaml, so that no pin is written twice
$(VENV)/ready: conda.yaml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is another: make setup PYTHON=python3.11" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	sed -n '/^ *- pip: *$$/,$$ { s/^ *- *//; s/^"\(.*\)"$$/\1/; /==/p; }' $< > $(VENV)/requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

demo: setup
	mlflow run . --env-manager local

test: setup
	ruff check .
	ruff format --check .
	mypy
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal

soak: setup # kills at random points, ten minutes long
	OMP_NUM_THREADS=1 python -m pytest -s --timeout=0 tests/faults/soak.py

ui: setup
	mlflow ui --no-serve-artifacts --host 127.0.0.1 --port 5000

bench: setup
	python -m bench.engine
	python -m bench.parity
	python -m bench.study
	python -m bench.vision
	python -m bench.verdicts
	python -m bench.search
	python -m bench.significance
