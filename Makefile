# make demo: set up and answer the question in small. make test: set up, lint, types, all tests.
# make soak: the longest tests, then runs killed at random points for ten minutes (LABELREG_SOAK_SECONDS,
# LABELREG_SOAK_SEED).
# make lock: after a change of conda.yaml's pins.
PYTHON ?= python3
PORT ?= 5000
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
# each file is checked against its hash; what a lock lists is all that it needs. Whom the machine trusts, uv trusts, as
# pip does. pip, slower, for a machine where pip alone knows its package index (uv does not read pip.conf)
install = uv pip install --quiet --system-certs --python $(VENV)/bin/python --require-hashes --no-deps -r $(1) || \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(1)

.PHONY: setup demo picture test test-browser soak ui bench lock
.DELETE_ON_ERROR:

setup: $(VENV)/ready

# by pip, its lines of the lock
$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || \
	  { echo "Python 3.11 to 3.14 is needed, $(PYTHON) is another: make setup PYTHON=python3.11" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements/environment.txt > $(VENV)/uv.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt

$(VENV)/ready: requirements/environment.txt conda.yaml | $(VENV)/bin/uv
	$(VENV)/bin/python -m tools.pins --check
	$(call install,$<)
	touch $@

$(VENV)/%: requirements/%.txt | setup
	$(call install,$<)
	touch $@

lock: $(VENV)/bin/uv
	$(VENV)/bin/python -m tools.pins

demo: setup
	mlflow run . --env-manager local

# after make demo: its answer as the README's picture
picture: setup
	COLUMNS=96 python -m entrypoints.significance --study=smoke > $(VENV)/answer.txt
	python -m tools.screen "make demo" docs/demo.svg < $(VENV)/answer.txt

test: setup
	ruff check .
	ruff format --check .
	mypy
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal

# the tests that need Chromium (Debian: apt-get install chromium)
test-browser: setup $(VENV)/browser
	python -m pytest -m browser

soak: setup
	OMP_NUM_THREADS=1 python -m pytest -s --timeout=0 -m soak tests tests/faults/soak.py

ui: setup
	@python -m labelreg.store.views $(PORT)
	mlflow ui --no-serve-artifacts --host 127.0.0.1 --port $(PORT) \
	  --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

bench: setup $(VENV)/bench
	python -m bench.engine
	python -m bench.parity
	python -m bench.study
	python -m bench.busy
	python -m bench.large
	python -m bench.vision
	python -m bench.verdicts
	python -m bench.search
	python -m bench.significance
