# Needs make and Python 3.9 or newer; the rest is installed into .venv.  `make help` says what there is.
PYTHON = python3
VENV = .venv
READY = $(VENV)/ready
SOURCES = $(wildcard *.py tools examples benchmarks)

help:
	@echo 'make demo    a Celery worker counts words, with its results in DynamoDB'
	@echo 'make test    all tests; ARGS="-k chord -x" goes to pytest'
	@echo 'make test-matrix   the same on every Python that is here and every Celery; SESSIONS="oldest newest" for the corners'
	@echo 'make bench   beside Celery'"'"'s own DynamoDB backend and its Redis backend; ARGS=--quick for the short form'
	@echo 'make conformance   Celery'"'"'s own integration tests against this backend; PEER=redis against its Redis backend'
	@echo 'make canvases   random canvases on this backend and on the Redis backend; ARGS="--seed 42" shows one'
	@echo 'make lint    ruff and mypy'
	@echo 'make clean   removes what these made'
	@echo
	@echo 'demo and test take the DynamoDB at DYNAMODB_ENDPOINT=http://..., else start one, in Docker where that runs,'
	@echo 'else embedded; ENGINE=docker or ENGINE=embedded allows only that; QUICK=1 leaves out what takes minutes.  PYTHON=python3.12 picks the Python.'

demo: $(READY)
	@$(VENV)/bin/python tools/dynamodb_local.py $(VENV)/bin/python examples/demo.py

test: $(READY)
	@$(VENV)/bin/python tools/dynamodb_local.py $(VENV)/bin/python -m pytest -o faulthandler_timeout=400 $(ARGS)

test-matrix: $(READY)
	@$(VENV)/bin/python tools/dynamodb_local.py $(VENV)/bin/python -m nox -f tools/noxfile.py \
		$(if $(SESSIONS),-s $(SESSIONS),-s tests) $(if $(ARGS),-- $(ARGS))

bench: $(READY)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[bench]'
	@$(VENV)/bin/python benchmarks/bench.py $(ARGS)

conformance: $(READY)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[conformance]'
	@$(VENV)/bin/python tools/conformance.py $(ARGS)

canvases: $(READY)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[canvases]'
	@$(VENV)/bin/python tools/canvases.py $(ARGS)

lint: $(READY)
	@$(VENV)/bin/python -m ruff check --config tools/ruff.toml $(SOURCES)
	@$(VENV)/bin/python -m mypy --config-file tools/mypy.ini $(filter-out setup.py,$(SOURCES))

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The venv is made anew when setup.py changed, when its Python is gone, and when it was moved: its scripts hold its path.
ifneq ($(shell { $(VENV)/bin/python -c "" && cat $(READY); } 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif
$(READY): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || \
		{ echo 'Python 3.9 or newer is needed: make PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'This Python has no venv: install it (on Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Making $(VENV) ...'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[test,lint]'
	@echo '$(CURDIR)' > $@

.PHONY: help demo test test-matrix bench conformance canvases lint clean
