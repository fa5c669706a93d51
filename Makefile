# Plain `make` prints the targets. Each target installs what it lacks and says so in one line.
# Nothing is written outside this folder except package caches and Debian packages.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo shop test matrix build lint bench docs clean lock

export PYTHON ?= python3
BIN := .venv/bin

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## three doors on ports 8000-8002, each limiting real HTTP (ONCE=1 stops after the tour, PORT=9000 shifts the ports)
	@scripts/wants.sh demo
	@$(BIN)/python -m examples.doors.tour $(if $(ONCE),--once) --port $(or $(PORT),8000)

shop: build ## an example shop on Bolt on port 8000, and a page that calls it on port 8001 (PORT=9000 shifts them)
	@scripts/wants.sh shop
	@$(BIN)/python examples/bolt_shop/open.py --port $(or $(PORT),8000)

test: build ## build, then every test: Rust, Python, and the guards of the house
	@scripts/wants.sh test
	@$(BIN)/python scripts/test.py $(ARGS)

matrix: build ## the Django door on every Django and Python that is here, built for each (takes minutes)
	@scripts/wants.sh test
	@$(BIN)/python scripts/matrix.py --build $(ARGS)

build: ## .venv with the release wheel installed, rebuilt only when a source changed
	@scripts/build.sh

lint: build ## formatting, clippy, ruff, mypy, stubs, dependencies, sizes
	@scripts/wants.sh lint
	@$(BIN)/python scripts/lint.py $(ARGS)

bench: build ## ratios against the libraries and servers that do the same job (ARGS=--json for a machine)
	@scripts/wants.sh bench
	@$(BIN)/python -m bench $(ARGS)

soak: build ## a million mixed requests to runbolt, its memory meanwhile, 10 reloads under load (ARGS=--json)
	@scripts/wants.sh test
	@$(BIN)/python -m bench.soak $(ARGS)

docs: build ## the manual, as HTML in docs/_build/html
	@scripts/wants.sh docs
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs: open docs/_build/html/index.html"

lock: ## resolve requirements/*.in again into the exact pins of requirements/*.txt
	@scripts/wants.sh build
	@$(BIN)/python scripts/lock.py

clean: ## remove everything that the other targets made
	@rm -rf .venv .make target docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis bench/.venv*
	@find python tests examples bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
	@find python -name '_tollway*.so' -delete
	@rm -f examples/doors/db.sqlite3 examples/shop/db.sqlite3 examples/bolt_shop/db.sqlite3*
	@rm -rf examples/bolt_shop/media
	@echo "clean: removed .venv, target, caches and built pages"
