# Two commands do everything on a fresh machine: `make run` and `make test`.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

UV_VERSION := 0.13.9
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export GIT_PYTHON_REFRESH := quiet
# thirty stages import the same libraries: compiled once, they start in a second or two
unexport PYTHONDONTWRITEBYTECODE

# two processes that run tests share the cores: each would take all of them, and wait for the other in busy loops
SIDE_BY_SIDE := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

# everything: tests read documents, pages and MLproject too
SOURCES := $(filter-out dvc.lock %.dvc %.gitignore,$(shell git ls-files 2>/dev/null))

.PHONY: help env run test test-slow test-browser test-gpu soak check format clean

help:
	@echo "make run           set up, reproduce the embedded experiment, fill the registry, say where everything is"
	echo "make test          set up and pass the tests"
	echo "make check         ruff, mypy --strict, import contracts"
	echo "make test-slow     the proofs that take minutes"
	echo "make test-browser  the report in a real browser (Debian's chromium)"
	echo "make test-gpu      the checks that need a CUDA device"
	echo "make soak          ten thousand hostile requests to a service, and what is left of it"

env: $(VENV)/.ok

$(VENV)/.ok: requirements.lock pyproject.toml
	@started=$$SECONDS
	echo "[env] creating the environment from requirements.lock (about 1 minute, 6 GB)"
	if [ ! -x .uv/bin/uv ]; then
	  python3 -m venv .uv
	  .uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	fi
	if ! .uv/bin/uv venv --quiet --clear --python 3.11 $(VENV) 2>/tmp/blankslide-uv-$$$$; then
	  cat /tmp/blankslide-uv-$$$$ >&2; rm -f /tmp/blankslide-uv-$$$$
	  echo "[env] Expected Python 3.11 on this machine; none was found and none could be fetched. Install python3.11 and repeat." >&2
	  exit 1
	fi
	rm -f /tmp/blankslide-uv-$$$$
	.uv/bin/uv pip install --quiet --python $(VENV)/bin/python --require-hashes -r requirements.lock
	.uv/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	ln -sf ../../.uv/bin/uv $(VENV)/bin/uv # where `mlflow run --env-manager=uv` looks for it
	touch $@
	echo "[env] ready after $$((SECONDS - started)) s"

run: env
	@started=$$SECONDS
	echo "[run] reproducing the embedded experiment (the first time it trains and scores everything: README says how long that took; seconds when nothing changed)"
	dvc repro
	echo "[run] filling the registry from the receipts"
	blankslide registry sync
	blankslide where
	echo "[run] done after $$((SECONDS - started)) s"

test: $(VENV)/.tested
	@echo "[test] passed; nothing has changed since. \`make -B test\` runs them again."

$(VENV)/.tested: $(VENV)/.ok $(SOURCES)
	@started=$$SECONDS
	echo "[test] running the test suite (pytest prints how long it took; less than ten minutes on 2 cores)"
	$(SIDE_BY_SIDE) pytest -q -n 2 --dist loadfile
	touch $@
	echo "[test] finished after $$((SECONDS - started)) s"

test-slow: env
	@$(SIDE_BY_SIDE) pytest -q -n 2 --dist loadfile -m slow

test-browser: env
	@pytest -q -m browser

test-gpu: env
	@pytest -q -m gpu

soak: env
	@python -m tests.serving.endpoint.soak --requests 10000

check: env
	@echo "[check] ruff, mypy --strict, import contracts"
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache

format: env
	@ruff check --fix .
	ruff format .

clean:
	rm -rf $(VENV) .uv out reports data/culture data/tissue mlflow.db mlartifacts
