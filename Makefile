# Needs make and Python 3.9 or newer; the rest goes into .venv.  `make help` lists the targets.
PYTHON = python3
VENV ?= .venv
DEMO_READY = $(VENV)/demo-ready
READY = $(VENV)/ready
PIP_INSTALL = $(VENV)/bin/python -m pip install -qq --disable-pip-version-check

help:
	@echo 'make demo    a Celery worker counts words, with its results in DynamoDB'
	@echo 'make test    what a change should pass, in minutes; ARGS="-k chord -x" goes to pytest'
	@echo 'make test-all      all tests: also kills at every step, 10,000 parts, 100,000 items'
	@echo 'make test-matrix   the tests of make test with every Celery on every Python that is here;'
	@echo '             SESSIONS="oldest newest" for the corners'
	@echo 'make bench   beside the DynamoDB and Redis backends of Celery; ARGS=--quick for a short one'
	@echo 'make conformance   the integration tests of Celery against this backend;'
	@echo '             PEER=redis against its Redis backend'
	@echo 'make model   the protocol of chords over random schedules; ARGS=50000 for as many'
	@echo 'make canvases   random canvases on this backend and on the Redis backend of Celery;'
	@echo '             ARGS="--seed 42" shows one'
	@echo 'make soak    40 minutes of faults, kills and duplicates, on three kinds of workers, whose'
	@echo '             results a client gets, awaits or is called back with;'
	@echo '             ARGS="--minutes 3 --plot soak.svg" for a short one, with a plot'
	@echo 'make simulate   a chord of a million on AWS, on paper, with 10, 100 and 1,000 workers;'
	@echo '             ARGS="--parts 100000 --seconds 1"'
	@echo 'make test-aws   every kind of request, and chords, on AWS itself, for less than a US cent;'
	@echo '             ARGS="--region eu-west-1 --report report.md"'
	@echo 'make lint    ruff and mypy'
	@echo 'make clean   removes what these made'
	@echo
	@echo 'demo and test use the DynamoDB at DYNAMODB_ENDPOINT=http://..., else they start one:'
	@echo 'in Docker if that runs, else embedded.  ENGINE=docker or ENGINE=embedded allows only that,'
	@echo 'and ENGINE=moto the emulator that also runs on Python 3.9.'
	@echo 'IMAGE=... names another image of DynamoDB Local than amazon/dynamodb-local.'
	@echo 'PYTHON=python3.12 picks the Python; VENV=.venv/3.12 gives it a venv beside the other one.'

demo: $(DEMO_READY)
	@$(VENV)/bin/python tools/dynamodb_local.py $(VENV)/bin/python examples/demo.py

test: $(READY)
	@$(VENV)/bin/python tools/dynamodb_local.py $(VENV)/bin/python tools/suite.py $(ARGS)

test-all: $(READY)
	@$(VENV)/bin/python tools/dynamodb_local.py $(VENV)/bin/python tools/suite.py --all $(ARGS)

test-matrix: $(READY)
	@$(VENV)/bin/python tools/dynamodb_local.py $(VENV)/bin/python -m nox -f tools/noxfile.py \
		$(if $(SESSIONS),-s $(SESSIONS),-s tests) $(if $(ARGS),-- $(ARGS))

bench: $(READY)
	@$(PIP_INSTALL) --editable '.[bench]'
	@$(VENV)/bin/python benchmarks/bench.py $(ARGS)

conformance: $(READY)
	@$(PIP_INSTALL) --editable '.[conformance]'
	@$(VENV)/bin/python tools/conformance.py $(ARGS)

model: $(READY)
	@$(VENV)/bin/python tools/chord_model.py $(ARGS)

canvases: $(READY)
	@$(PIP_INSTALL) --editable '.[canvases]'
	@$(VENV)/bin/python tools/canvases.py $(ARGS)

soak: $(READY)
	@$(PIP_INSTALL) --editable '.[soak]'
	@$(VENV)/bin/python tools/soak.py $(ARGS)

simulate: $(READY)
	@$(VENV)/bin/python tools/aws_simulation.py $(ARGS)

test-aws: $(READY)
	@$(VENV)/bin/python tools/aws_report.py $(ARGS)

lint: $(READY)
	@$(VENV)/bin/python tools/lint.py

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The venv is made again if setup.py changed, if its Python is gone, and if it was moved: its
# scripts hold its path.
ifneq ($(shell { $(VENV)/bin/python -c "" && cat $(DEMO_READY); } 2>/dev/null),$(CURDIR))
.PHONY: $(DEMO_READY)
endif
$(DEMO_READY): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || \
		{ echo 'Python 3.9 or newer is needed: make PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'This Python has no venv: install it (on Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Making $(VENV) (90 MB; half a minute, and longer if the network is slow):'
	@echo '- a Python environment'
	@$(PYTHON) -m venv --clear $(VENV)
	@echo '- Celery, botocore, the client of Docker'
	@$(PIP_INSTALL) --editable '.[demo]'
	@echo '$(CURDIR)' > $@

$(READY): $(DEMO_READY)
	@echo '- what tests and lint need (100 packages, 300 MB; a minute or longer)'
	@$(PIP_INSTALL) --editable '.[test,lint]'
	@touch $@

.PHONY: help demo test test-all test-matrix test-aws bench conformance model canvases soak simulate \
	lint clean
