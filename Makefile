# Each target is a thin line over the real command, so that nothing here needs to be understood.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?=
PORT ?= 8000

.PHONY: help install demo test lint bench-load clean

help:
	@echo "make demo [DATA=ratings.zip]  install, load ratings, train, serve on 127.0.0.1:$(PORT)"
	@echo "make test                     install, lint, types, layers, tests on SQLite and PostgreSQL"
	@echo "make lint                     format, lint, types and layers only"
	@echo "make bench-load               time loading ML-1M into both databases (real ratings needed)"

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/recsys demo --port $(PORT) $(if $(DATA),--data '$(DATA)')

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest

bench-load: install
	$(BIN)/python -m benchmarks.loading

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
