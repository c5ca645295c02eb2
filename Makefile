# Everything needed is installed into .venv by the target that needs it.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PEERS ?= ../shared/peers

.DEFAULT_GOAL := help
.PHONY: help install serve test lint format bench bench-peers frontdesk-model clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: .venv/serve.done  ## Install what a server needs into .venv

serve: .venv/serve.done  ## Take calls; ARGS="--port 8123" passes flags on
	@$(BIN)/voice serve $(ARGS)

test: .venv/dev.done  ## Run the tests; ARGS="tests/test_turn.py" picks some
	@$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

lint: .venv/dev.done  ## Check style and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: .venv/dev.done  ## Put the source in form
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: .venv/serve.done  ## Measure voice-to-voice latency, memory and 16 calls at once
	@$(BIN)/voice bench $(ARGS)

bench-peers: .venv/serve.done  ## Beside Pipecat and LiveKit Agents in one run; ARGS="--quick" for 3 minutes
	@mkdir -p build/peers
	@PEERS_VENVS=$(CURDIR)/build/peers $(PEERS)/setup.sh
	@cd build/peers && VOICE_DATA=$(CURDIR)/build/peers/var PEERS_VENVS=$(CURDIR)/build/peers \
	  python3.11 $(abspath $(PEERS))/compare.py \
	  --ours "$(CURDIR)/$(BIN)/voice serve --profile bench --reply {reply} --port {port}" $(ARGS)

frontdesk-model: .venv/train.done  ## Train the front-desk model anew (about an hour on one core)
	@$(BIN)/python -m demos.frontdesk.language --write
	@$(BIN)/python -m demos.frontdesk.hearing --count 4500
	@$(BIN)/python -m demos.frontdesk.train --minutes 26
	@$(BIN)/python -m demos.frontdesk.evaluate

clean:  ## Remove what was installed and made
	rm -rf .venv build dist *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "making .venv and installing; this happens once"
	@$(PYTHON) -m venv .venv

.venv/serve.done: .venv/bin/python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/dev.done: .venv/serve.done
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv/train.done: .venv/dev.done
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train]'
	@touch $@
