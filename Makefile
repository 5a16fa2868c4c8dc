# Stepvault. `make demo` shows it, `make test` proves it; both set up all they need.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
UV := build/uv/bin/uv
INSTALL := $(UV) pip install --quiet --require-hashes
export PYTHONPATH := $(CURDIR):$(CURDIR)/layers/core/python:$(CURDIR)/cli
# Python 3.13: the python3 on the path, or pyenv's.
FIND_PYTHON = for p in python3.13 python3 $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.13*/bin/python3 2>/dev/null); do \
	if $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null; then echo $$p; exit; fi; done; \
	echo "Stepvault needs Python 3.13: install it, or 'pyenv install 3.13'" >&2; exit 1

.PHONY: help setup demo test unit coverage servers check lint types imports lock docs bench synth clean layers system

help:  ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(UV): infra/uv.txt
	@python=$$($(FIND_PYTHON)); rm -rf build/uv; $$python -m venv build/uv; \
	build/uv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r infra/uv.txt; touch $@

# Installed into .venv together, so each agrees with those before it on what they share.
TOGETHER := layers/deps cli infra tests docs
GROUPS := $(TOGETHER:%=%/requirements.txt) layers/postgres_client/requirements.txt
.venv/.ready: $(UV) $(GROUPS)
	@$(UV) venv --quiet --clear --python $$($(FIND_PYTHON)) .venv
	@$(INSTALL) --compile-bytecode --python .venv $(addprefix -r ,$(GROUPS))
	@printf '%s\n' '$(CURDIR)/layers/core/python' '$(CURDIR)/cli' > $$(.venv/bin/python -c 'import site; print(site.getsitepackages()[0])')/stepvault.pth
	@printf '#!%s\nfrom stepvault_cli.main import main\nmain()\n' '$(CURDIR)/$(PY)' > .venv/bin/stepvault; chmod +x .venv/bin/stepvault
	@touch $@

setup: .venv/.ready  ## Install what development needs

# Versions that are locked already stay, unless UPGRADE=1.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-header $(if $(UPGRADE),--upgrade)
ALONE := infra/uv layers/postgres_client/requirements layers/postgres_client/libraries devtools/emulator devtools/mutants devtools/servers/postgres15
lock: $(UV)  ## Make every hashed requirements file anew from its .in (UPGRADE=1: newest versions)
	@agree=; for group in $(TOGETHER) bench; do \
	  $(LOCK) $$agree $$group/requirements.in -o $$group/requirements.txt; agree="$$agree -c $$group/requirements.txt"; done
	@for file in $(ALONE); do $(LOCK) $$file.in -o $$file.txt; done

# --- infrastructure: layers without Docker, the CDK ---------------------------------------------
ARCH ?= arm64
CDK := infra/node_modules/.bin/cdk

layers: .venv/.ready  ## Build the layers for ARCH (arm64, x86_64), without Docker
	@$(PY) layers/deps/build.py --arch $(ARCH) --out build/layers/deps-$(ARCH)
	@$(PY) layers/postgres_client/build.py --arch $(ARCH) --out build/layers/postgres_client-$(ARCH)

# The first import of the CDK unpacks 200 MB and compiles its modules: meanwhile.
infra/node_modules/.ready: infra/package-lock.json | .venv/.ready
	@(cd infra && npm ci --no-audit --no-fund --loglevel=error >/dev/null) & npm=$$!; \
	$(PY) -c 'import infra.stack'; wait $$npm; touch $@

synth: layers infra/node_modules/.ready  ## Synthesize the stack for AWS and check it with cdk-nag
	@$(CDK) synth --quiet --no-notices 2>&1 | { grep -v "feature flags" || true; }

# --- the two commands ---------------------------------------------------------------------------
demo: .venv/.ready infra/node_modules/.ready  ## Back up, restore and compare real sources on this machine (KEEP=1: stay)
	@$(PY) -m examples.demo.demo

# What tests compare with, as Debian packages: command:package. No service is started.
SYSTEM := pgbouncer:pgbouncer mariadbd:mariadb-server mariadb:mariadb-client myloader:mydumper zstd:zstd rsync:rsync setfacl:acl setfattr:attr
system:
	@missing=$$(for pair in $(SYSTEM); do PATH=$$PATH:/usr/sbin command -v $${pair%%:*} >/dev/null || echo $${pair##*:}; done); \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" != 0 ]; then echo "These Debian packages are missing:" $$missing >&2; exit 1; fi; \
	  policy=/usr/sbin/policy-rc.d; made=; \
	  if [ ! -e $$policy ]; then printf '#!/bin/sh\nexit 101\n' > $$policy; chmod +x $$policy; made=1; fi; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	  if [ -n "$$made" ]; then rm $$policy; fi; \
	fi

# Docstrings that name arguments, returns or yields which are not there; still a preview of ruff.
DOCSTRINGS := --preview --select DOC102,DOC202,DOC403

lint: .venv/.ready  ## Style, with ruff
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff check --quiet $(DOCSTRINGS) .
	@.venv/bin/ruff format --quiet --check .

types: .venv/.ready  ## Types, with mypy
	@.venv/bin/mypy --no-error-summary

imports: .venv/.ready  ## Import rules, with import-linter
	@mkdir -p build; .venv/bin/lint-imports --no-logo >build/import-rules.txt || { cat build/import-rules.txt; exit 1; }

# All parts at once, each part's output in one piece, and all of them even if one fails.
AT_ONCE := $(MAKE) --no-print-directory --jobs --keep-going --output-sync=target
CHECKS := lint types imports synth
check: .venv/.ready  ## Lint, types, import rules, and cdk synth with cdk-nag
	@$(AT_ONCE) $(CHECKS)

# Warnings are errors: an annotation or a module that cannot be read stops it.
DOCS := stepvault '!stepvault\.engines\.(?!base$$).+'
docs: .venv/.ready  ## Render the API documentation to build/docs
	@.venv/bin/ruff check --quiet $(DOCSTRINGS) layers cli
	@rm -rf build/docs; $(PY) -W error -m pdoc --docformat google --output-directory build/docs $(DOCS)

# Three processes on two cores, as tests wait as much as they work; tests/plugins/parallel.py says which stay together.
PYTEST := .venv/bin/pytest -q -n 3

test: .venv/.ready system  ## Everything: checks, then all tests on real servers
	@$(AT_ONCE) $(CHECKS) servers
	@$(PYTEST)

unit: .venv/.ready  ## The fast tests, which need no server; under a minute
	@$(PYTEST) -m "not slow"

coverage: .venv/.ready system servers  ## All tests, and the lines that no test runs: build/coverage
	@$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

# What tests run on. After the layers, as on arm64 both build the same ones.
servers: .venv/.ready layers
	@$(PY) -c "from devtools import emulator; emulator.prepare(); emulator.build_layers()"
	@$(PY) devtools/servers/postgres.py >/dev/null
	@$(PY) devtools/servers/mysql.py

bench: SYSTEM += restic:restic
bench: .venv/.ready system  ## Compare with other tools; see bench/README.md
	@$(INSTALL) --compile-bytecode --python .venv -r bench/requirements.txt
	@for bench in postgres mysql sqlite files memory; do $(PY) -m bench.$$bench; done

clean:  ## Remove everything that was built
	@rm -rf .venv build cdk.out infra/node_modules .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

build/mutants-venv/.ready: devtools/mutants.txt | .venv/.ready
	@$(UV) venv --quiet --clear --python $(PY) build/mutants-venv
	@$(INSTALL) --python build/mutants-venv -r devtools/mutants.txt; touch $@

mutants: build/mutants-venv/.ready  ## Put mistakes into the core and see whether the tests notice (EACH=12 a module)
	@$(PY) -c "from devtools import emulator; emulator.prepare()"
	@build/mutants-venv/bin/python -m devtools.mutants --each $(or $(EACH),12)
.PHONY: mutants
