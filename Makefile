# The only entry points; continuous integration calls the same targets.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help setup demo test check format bench bench-engine bench-operators bench-cache bench-client bench-load soak gpu-check image-check axioms nightly clean

help:
	@echo "make demo    set up, then train teachers, serve them and distil a student (about two minutes)"
	@echo "make test    set up, then run the tests"
	@echo "make check   set up, then check format, lint, types and import contracts"
	@echo "make format  format the code"
	@echo "make bench   set up, then measure the server; bench-engine, -operators, -cache: what is behind it;"
	@echo "             bench-client: what a training loop has of it"
	@echo "make bench-load  Locust's scenarios for LOAD_S seconds; make soak: whether an hour of load leaves it as it is"
	@echo "make gpu-check  on a machine with a GPU: strict binding, agreement with the CPU, throughput"
	@echo "make image-check  as root, with debootstrap: run the Dockerfile's steps without Docker, and try the result"
	@echo "make axioms  certify the built-in operators and write the table into the README"
	@echo "make nightly the full axiom budgets over many seeds, into docs/axioms.md (hours)"
	@echo "make clean   remove .venv and build"

setup: .venv/.installed

# Installs on the first call and when what is to be installed has changed; CPU runtime.
.venv/.installed: pyproject.toml client/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("soft-targets needs Python 3.11 or newer, but PYTHON=$(PYTHON) is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || { echo "setting up .venv (a few minutes the first time)"; $(PYTHON) -m venv .venv; }
	@$(PIP) -c constraints.txt -e ./client -e '.[cpu,redis,demo,dev,examples]'
	@touch $@

demo: setup
	@$(BIN)/soft-targets demo

# A file's tests share servers, so a file stays in one process.
test: setup
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PYTHONPATH=. $(BIN)/lint-imports

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup
	@$(BIN)/python bench/server.py

bench-engine: setup
	@$(BIN)/python bench/engine.py

bench-operators: setup
	@$(BIN)/python bench/fusion.py

bench-cache: setup
	@$(BIN)/python bench/cache.py

bench-client: setup
	@$(BIN)/python bench/client.py

bench-load: setup
	@$(PIP) -c constraints.txt -e '.[load]'
	@$(BIN)/python bench/load.py

soak: setup
	@$(BIN)/python bench/soak.py

gpu-check: setup
	@$(BIN)/python bench/gpu.py

# IMAGE_CHECK holds options, as --bind for an index of your own.
image-check:
	@$(PYTHON) deploy/check_image.py $(IMAGE_CHECK)

axioms: setup
	@$(BIN)/python bench/axioms.py --into README.md

# Hours: what the tests cannot wait for. The last result is kept in docs.
SEEDS ?= 5
nightly: setup
	@$(BIN)/python bench/axioms.py --budget full --seeds $(SEEDS) --into docs/axioms.md

clean:
	rm -rf .venv build
