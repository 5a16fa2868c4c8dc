# Stepvault. `make demo` shows it, `make test` proves it; both set up all they need.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
UV := build/uv/bin/uv
INSTALL := $(UV) pip install --quiet --require-hashes
export PYTHONPATH := $(CURDIR):$(CURDIR)/layers/core/python:$(CURDIR)/cli
export PYTHONDONTWRITEBYTECODE ?=
# Python 3.13: the python3 on the path, or pyenv's.
FIND_PYTHON = for p in python3.13 python3 $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.13*/bin/python3 2>/dev/null); do \
	if $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null; then echo $$p; exit; fi; done; \
	echo "Stepvault needs Python 3.13: install it, or 'pyenv install 3.13'" >&2; exit 1

.PHONY: help setup demo test check bench synth clean layers

help:  ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(UV): infra/uv.txt
	@python=$$($(FIND_PYTHON)); rm -rf build/uv; $$python -m venv build/uv; \
	build/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r infra/uv.txt; touch $@

GROUPS := layers/deps/requirements.txt cli/requirements.txt infra/requirements.txt tests/requirements.txt layers/postgres_client/requirements.txt
.venv/.ready: $(UV) $(GROUPS)
	@$(UV) venv --quiet --clear --python $$($(FIND_PYTHON)) .venv
	@$(INSTALL) --python .venv $(addprefix -r ,$(GROUPS))
	@printf '%s\n' '$(CURDIR)/layers/core/python' '$(CURDIR)/cli' > $$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/stepvault.pth
	@touch $@

setup: .venv/.ready  ## Install what development needs

# --- infrastructure: layers without Docker, the CDK ---------------------------------------------
ARCH ?= arm64
CDK := infra/node_modules/.bin/cdk

layers: .venv/.ready  ## Build the layers for ARCH (arm64, x86_64), without Docker
	@$(PY) layers/deps/build.py --arch $(ARCH) --out build/layers/deps-$(ARCH)
	@$(PY) layers/postgres_client/build.py --arch $(ARCH) --out build/layers/postgres_client-$(ARCH)

infra/node_modules/.ready: infra/package-lock.json
	@cd infra && npm ci --no-audit --no-fund --loglevel=error >/dev/null; touch node_modules/.ready

synth: layers infra/node_modules/.ready  ## Synthesize the stack for AWS and check it with cdk-nag
	@$(CDK) synth --quiet --no-notices
