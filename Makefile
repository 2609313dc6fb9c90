# make run · make test · make lint · make install — all in .venv and build, nothing else is touched.
PYTHON ?= python3
PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
export PORT
# Many processes are started here: each would compile everything anew where this is set.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run install test test-distributed services services-down test-ccxt lint format constraints bench bench-quick bench-full load load-smoke faults conformance proof clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

run: $(VENV)/.run ## serve on 127.0.0.1:8080 (PORT=… for another) with simulated tokens
	@exec $(BIN)/tokenwire-server run $(ARGS)

install: $(VENV)/.install ## .venv with everything: server, tests, linters

test: $(VENV)/.install ## the whole test suite
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

test-distributed: $(VENV)/.install ## every part past one machine dies again and again, nothing is lost (4 minutes; ARGS=--help for more)
	@$(BIN)/python -m loadtests.distributed $(ARGS)

services: $(VENV)/.install ## Kafka, PostgreSQL and Redis for the tests (build/services.json); without, tests start their own
	@$(BIN)/python -m server.tests.services up

services-down: ## end them
	@if [ -e build/services.json ]; then $(BIN)/python -m server.tests.services down; fi

test-ccxt: ## the ccxt source with the real library, in a virtualenv of its own
	python3 -m venv $(VENV)-ccxt
	$(VENV)-ccxt/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints-ccxt.txt
	$(VENV)-ccxt/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(VENV)-ccxt/bin/python -m pytest -q --override-ini addopts=--import-mode=importlib server/tests/sources/test_ccxt_source.py

lint: $(VENV)/.install ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.install ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(VENV)/.install ## pin the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	printf '.[server]\nhatchling\neditables\n' | $(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes \
	  --no-emit-package tokenwire --no-header --no-annotate --python-version 3.11 -o constraints-run.txt -
	printf '.[dev]\n' | $(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes \
	  --no-emit-package tokenwire --no-header --no-annotate --python-version 3.11 -o constraints.txt -
	printf '.[server,timescale,socketio,kafka,redis]\nhatchling>=1.27\n' | $(BIN)/uv pip compile --quiet --universal \
	  --generate-hashes -c constraints.txt --no-emit-package tokenwire --no-header --no-annotate --python-version 3.11 \
	  -o deploy/constraints.txt -
	printf '.[server,ccxt]\nasync-solipsism\nhatchling\neditables\npytest\npytest-asyncio\n' | $(BIN)/uv pip compile --quiet \
	  --universal --upgrade --generate-hashes --no-emit-package tokenwire --no-header --no-annotate --python-version 3.11 \
	  -o constraints-ccxt.txt -

bench: $(VENV)/.install ## our server, the floor and six peers at the same tasks (13 minutes; ARGS=--help for more)
	@$(BIN)/python -m loadtests.peers.install websockets ws bun picows aiohttp socketio || true
	@$(BIN)/python -m loadtests.bench $(ARGS)

bench-quick: $(VENV)/.install ## three tasks and three peers in 90 seconds
	@$(BIN)/python -m loadtests.peers.install websockets ws bun || true
	@$(BIN)/python -m loadtests.bench --quick $(ARGS)

bench-full: $(VENV)/.install ## everything: W1 to W9, the load of the specification, how cost grows, every peer
	@$(BIN)/python -m loadtests.peers.install || true
	@$(BIN)/python -m loadtests.bench --full $(ARGS)

load: $(VENV)/.install ## Locust: 1000 users, judged by a gate (SHAPE=storm, churn, slow or soak; ARGS=--help for more)
	@$(BIN)/python -m loadtests.load.run $(if $(SHAPE),--shape $(SHAPE)) $(ARGS)

load-smoke: $(VENV)/.install ## the same with 200 users of every kind for a minute
	@$(BIN)/python -m loadtests.load.run --shape soak --users 200 --duration 60 --update-interval 1 $(ARGS)

faults: $(VENV)/.install ## 100,000 simulated schedules (ARGS="--schedules N --start K" for others), ablations, real sockets
	$(BIN)/python -m loadtests.faults.simulate $(or $(ARGS),--schedules 100000 --start 10000)
	$(BIN)/python -m loadtests.faults.ablations
	$(BIN)/python -m loadtests.faults.real --seed 7

conformance: $(VENV)/.install ## our server and SDK under the conformance suite, every profile (ARGS=server or client for one)
	$(BIN)/python conformance/tools/ours.py $(ARGS)

proof: $(VENV)/.install ## all mistakes against all conformance cases, 10,000 fault schedules, campaigns of kills (make test runs a part)
	TOKENWIRE_PROOF=full $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --timeout 1200 $(ARGS)

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The pinned packages first, each checked against its hash, then the project itself on top.
$(VENV)/.run: $(VENV)/bin/pip constraints-run.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints-run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.install: $(VENV)/bin/pip constraints.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run
