# make quickstart   install, then train the quickstart experiment
# make test         install, then run the whole test suite
# make lint         install, then ruff, codespell, pyright
# make clean        remove .venv and build outputs (runs/ stays)
#
# PYTHON       an interpreter, 3.11 or newer; by default the first such one that is found
# TORCH_INDEX  the package index that torch's wheel comes from; by default pip's own
# CONFIG       what quickstart trains; ARGS are its overrides
# TESTS        what `make test` runs; JOBS in how many processes

CONFIG ?= experiments/quickstart.yaml
ARGS ?=
TESTS ?= tests
JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)

# One thread a process: spinning OpenMP threads of several processes stand in each other's way.
export OMP_NUM_THREADS ?= 1

.PHONY: quickstart test lint install system clean

quickstart: $(STAMP)
	$(BIN)/rlagents train $(CONFIG) $(ARGS)

test: $(STAMP) system
	$(BIN)/python -m pytest -n $(JOBS) --dist loadscope $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(STAMP) system

# What the sandbox needs of the system. Nothing else does, so a machine that can't have it is told
# so and goes on: tests of the sandbox are skipped there, and `rlagents doctor` says why.
system:
	@sh .ci/system-packages

$(STAMP): constraints.txt pyproject.toml setup.py
	@python=; for name in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	  if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "rlagents needs Python 3.11 or newer; found $$(python3 --version 2>&1)." \
	    "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	echo "making $(VENV) with $$($$python --version)"; \
	$$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[arena,dev,endpoint,sandbox]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
