# One command per intention; CI runs nothing else. `make` alone lists them.

# The first Python that is new enough and can make virtual environments; PYTHON=... names another.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input
PIP_COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/bin/pip-compile --quiet --no-config --generate-hashes \
	--allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

.DEFAULT_GOAL := help
.PHONY: help setup fmt lint test docs wheel check envtest bench bench-cluster soak demo lock \
	image install-manifest release-check dist

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: $(STAMP)  ## a working checkout from nothing

$(STAMP): pyproject.toml requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "make setup: no Python found (needs 3.11 or newer with its venv module;" \
		"install it, or name it: make setup PYTHON=/path/to/python3)" >&2; exit 1; }
	@$(PY) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PY) $(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	$(PY) $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

fmt: setup  ## format and sort
	$(VENV)/bin/ruff check --select I --fix --quiet .
	$(VENV)/bin/ruff format .

lint: setup  ## linter, strict types, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

test: setup  ## everything, the API server included; e.g. make test ARGS="-k drift"
	@$(PY) tests/envtest/build.py >/dev/null || echo "*** make test: the cluster tests are skipped, see above ***" >&2
	$(VENV)/bin/pytest $(ARGS)

docs: setup  ## links of the docs, and their examples
	$(VENV)/bin/pytest tests/docs tests/test_house.py $(ARGS)

wheel: setup  ## build the wheel and try it in a clean environment
	@rm -rf build dist
	$(PY) -m build --wheel --no-isolation --outdir dist . >/dev/null
	@set -eu; clean=$$(mktemp -d); trap 'rm -rf "$$clean"' EXIT; \
	$(PY) -m venv "$$clean/venv"; \
	"$$clean/venv/bin/python" $(PIP_INSTALL) --require-hashes -r requirements/runtime.txt; \
	"$$clean/venv/bin/python" $(PIP_INSTALL) --no-deps --no-index dist/*.whl; \
	cd "$$clean"; \
	venv/bin/python -c 'import sluice; print("the wheel holds sluice", sluice.__version__)'; \
	venv/bin/sluice --help >/dev/null; \
	echo "the wheel runs from a directory of its own"

check: lint test docs wheel  ## all of the above, as CI does

envtest: setup  ## the API server for tests, built once
	$(PY) tests/envtest/build.py

bench: setup  ## what the engine costs
	$(PY) bench/engine.py $(ARGS)

bench-cluster: setup  ## what the controller costs on a real API server
	$(PY) bench/cluster.py $(ARGS)

soak: setup  ## hours of load, watching memory and files
	$(PY) bench/soak.py $(ARGS)

demo: setup  ## the main job on real input
	$(PY) examples/demo.py $(ARGS)

image: wheel  ## the image, for this machine's platform
	docker build --tag "flux-sluice/sluice:$$($(PY) tools/release.py version)" .

install-manifest: setup  ## dist/install.yaml, for kubectl apply
	$(PY) tools/release.py install-manifest

release-check: setup  ## one version everywhere; wheel and sdist the same when built again
	$(PY) tools/release.py check

dist: setup  ## everything that a release publishes; e.g. make dist TAG=v1.2.3
	$(PY) tools/release.py dist --tag="$(TAG)"

lock: setup  ## pin the requirements anew; e.g. make lock ARGS=--upgrade
	@$(PY) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "make lock: needs Python 3.11 in $(VENV), the floor, whose pins fit newer ones too" >&2; exit 1; }
	$(PIP_COMPILE) --output-file requirements/runtime.txt $(ARGS) pyproject.toml
	$(PIP_COMPILE) --output-file requirements/dev.txt $(ARGS) pyproject.toml requirements/dev.in
