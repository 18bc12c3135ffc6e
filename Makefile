# Each target needs only Python 3.10 to 3.13 and make:
#   make digits   trains on scikit-learn's digits and writes to runs/digits
#   make docs     builds the documentation in site/; executing the tutorials takes minutes
#   make test     runs the linter, the type checker and the tests
#   make quick    runs the fastest tests, for use after each change
#   make system   runs the tests that need processes, other environments or a long time
# To choose the interpreter: make test PYTHON=python3.12. To choose the number of test processes: make test WORKERS=4.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
WORKDIR ?= runs/digits
# Additional flags of resflow-train, such as ARGS=--config.train.steps=500
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

# Each test process gets one core, because more threads would wait for each other. Most tests run compiled code only
# once, so expensive XLA optimizations do not pay off.
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

# The Beam example has its own environment, because Apache Beam is incompatible with the pinned versions.
$(BEAM): examples/beam/requirements.txt $(STAMP)
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info build dist site .pytest_cache .ruff_cache

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "tf-resflow needs Python 3.10 to 3.13, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Choose another interpreter: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test ! -L $(VENV) || { echo "$(VENV) is a link, and recreating it would empty the folder that it points to. Remove the link." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt \
	  --config-settings editable_mode=compat
	$(BIN)/python -c 'import tensorflow, tensorflow_probability, tf_resflow'
	@touch $(STAMP)
