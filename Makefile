# Commands, each complete on a machine that has Python 3.10 to 3.13 and make:
#   make digits   trains on scikit-learn's digits; results in runs/digits
#   make docs     the documentation, in site/; it executes the tutorials, for minutes
#   make test     the linter and the tests
#   make quick    the tests that are worth running after each change
#   make system   what needs processes, other environments or long runs
# Another interpreter: make test PYTHON=python3.12. Another number of test processes: make test WORKERS=4.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
WORKDIR ?= runs/digits
# More flags for the job, such as ARGS=--config.train.steps=500
ARGS ?=

export TF_CPP_MIN_LOG_LEVEL ?= 2
export NO_MKDOCS_2_WARNING ?= 1

BIN := $(VENV)/bin
STAMP := $(VENV)/installed
BEAM := $(VENV)/beam/installed

.PHONY: digits docs test quick system lint clean

digits: $(STAMP)
	$(BIN)/resflow-train --config=best_small:digits --workdir=$(WORKDIR) $(ARGS)

docs: $(STAMP)
	$(BIN)/python -m mkdocs build --strict

# A test process has a core: more threads would wait for each other. Most tests run what XLA compiles once, so that
# it need not be fast.
test quick system: export OMP_NUM_THREADS ?= 1
test quick system: export OPENBLAS_NUM_THREADS ?= 1
test quick system: export TF_NUM_INTRAOP_THREADS ?= 1
test quick system: export XLA_FLAGS ?= --xla_llvm_disable_expensive_passes=true

PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations=10

test: lint
	$(PYTEST) --ignore=tests/system

quick: $(STAMP)
	$(PYTEST) --ignore=tests/system -m quick --random_cases=10

system: $(STAMP) $(BEAM)
	$(PYTEST) tests/system

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# Apache Beam and the pinned versions exclude each other: its example has an environment of its own.
$(BEAM): examples/beam/requirements.txt $(STAMP)
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info build dist site .pytest_cache .ruff_cache

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "tf-resflow needs Python 3.10 to 3.13, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test ! -L $(VENV) || { echo "$(VENV) is a link, and making it anew would empty what it points to: remove it." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt \
	  --config-settings editable_mode=compat
	$(BIN)/python -c 'import tensorflow, tensorflow_probability, tf_resflow'
	@touch $(STAMP)
