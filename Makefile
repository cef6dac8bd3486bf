# Each target is a thin line over the real command, so that nothing here needs to be understood.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PEERS ?= .venv-peers
CLIENT := .venv-client
TOOLS := .venv-tools
# Test processes at a time: three for two cores, since tests wait for servers and disks. `make test PYTEST=` has one.
CORES := $(shell getconf _NPROCESSORS_ONLN)
PYTEST ?= -n $(shell expr $(CORES) \* 3 / 2) --maxprocesses 8 --dist worksteal
DATA ?=
PORT ?= 8000

.PHONY: help install demo test test-long crash-test coverage lint bench bench-lists bench-stability bench-gpu bench-load bench-data bench-fold-in bench-serving bench-capacity bench-ranks bench-dashboard bench-overload bench-hostile soak pictures notebooks sbom release clean

help:
	@echo "make demo [DATA=ratings.zip]  install, load ratings, train, serve on 127.0.0.1:$(PORT)"
	@echo "make test                     install, lint, types, layers, tests on SQLite and PostgreSQL"
	@echo "make test-long                the long forms of some tests"
	@echo "make crash-test               kill processes a thousand times; a year of nights with faults (90 minutes)"
	@echo "make coverage                 tests, and which lines they reach"
	@echo "make lint                     format, lint, spelling, types and layers only"
	@echo "make bench [ARGS=--large]     this project beside others on the same folds (real ratings needed)"
	@echo "make bench-lists [ARGS=...]   lists that nightly publishes beside others, on many kinds of data"
	@echo "make bench-stability [ARGS=...] how far the training loss rises, on many kinds of data"
	@echo "make bench-gpu [ARGS=...]     throughput and time to quality on a CUDA device"
	@echo "make bench-load               time loading ML-1M into both databases (real ratings needed)"
	@echo "make bench-data [ARGS=...]    loads, reloads, memory, backup, and moves between databases"
	@echo "make bench-fold-in            users folded in beside trained ones (real ratings needed)"
	@echo "make bench-serving [ARGS=...] requests/s, latency and memory of the service"
	@echo "make bench-overload [ARGS=...] answers in a second at 16, 256 and 2,000 connections"
	@echo "make bench-hostile [ARGS=...] memory of the service under 20 kinds of input of clients without a key"
	@echo "make soak [ARGS=...]          a million checked requests in half an hour, with kills, swaps and erasures"
	@echo "make bench-capacity [ARGS=...] costs of a rating, a user and an item, for recsys capacity"
	@echo "make bench-ranks [ARGS=...]   training over ranks: time, loss, bytes and memory on 1 and 2 ranks"
	@echo "make bench-dashboard          times of the dashboard, the map and the report"
	@echo "make pictures [ARGS=...]      the pictures in docs/images (real ratings and Chromium needed)"
	@echo "make sbom                     build/sbom.json (CycloneDX) and build/licences.csv of what is installed"
	@echo "make release                  a reproducible wheel, the constraints, and the server's packages with hashes"
	@echo "make notebooks                run docs/notebooks and keep their outputs (real ratings needed)"

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
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint $(CLIENT)/installed
	$(BIN)/pytest $(PYTEST)

test-long: install
	$(BIN)/pytest $(PYTEST) -m long

crash-test: install
	$(BIN)/pytest $(PYTEST) --timeout 10800 -m crash tests/crash $(ARGS)

coverage: install $(CLIENT)/installed
	$(BIN)/pytest $(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html

# What makes a client of the OpenAPI document, for one test; it wants another typer than ours.
$(CLIENT)/installed: tests/api/client-generator.txt
	$(PYTHON) -m venv $(CLIENT)
	$(CLIENT)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# A peer that cannot be installed is left out, and the results say so.
$(PEERS)/installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $< || \
	grep -v '^#' $< | while read -r package; do \
	    $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$$package" \
	        || echo "left out: $$package"; \
	done
	@touch $@

bench: install $(PEERS)/installed
	$(BIN)/python -m benchmarks.compare --peers $(PEERS) $(ARGS)

bench-lists: install $(PEERS)/installed
	$(BIN)/python -m benchmarks.lists --peers $(PEERS) $(ARGS)

bench-stability: install
	$(BIN)/python -m benchmarks.stability $(ARGS)

bench-gpu: install
	$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-load: install
	$(BIN)/python -m benchmarks.loading

bench-data: install
	$(BIN)/python -m benchmarks.data_plane $(ARGS)

# One thread of numpy, as a request has it.
bench-fold-in: install
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.fold_in $(ARGS)

bench-serving: install
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-capacity: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.capacity $(ARGS)

bench-ranks: install
	$(BIN)/python -m benchmarks.ranks $(ARGS)

bench-overload: install
	$(BIN)/python -m benchmarks.goodput $(ARGS)

bench-hostile: install
	$(BIN)/python -m benchmarks.hostile $(ARGS)

# Half an hour; ARGS='--postgres' for PostgreSQL, ARGS='--minutes 5 --requests 100000' for a shorter one.
soak: install
	$(BIN)/python -m benchmarks.soak $(ARGS)

bench-dashboard: install
	for part in map page report server; do $(BIN)/python -m benchmarks.dashboard $$part || exit 1; done
	$(BIN)/python -m benchmarks.dashboard page --items 1000000

pictures: install
	$(BIN)/python -m benchmarks.pictures $(ARGS)

notebooks: install
	$(BIN)/python -m benchmarks.notebooks

# Tools that make no part of the product, in an environment of their own.
$(TOOLS)/installed:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check build==1.6.1 cyclonedx-bom==7.5.0 pip-licenses==5.5.5 uv==0.13.9
	@touch $@

sbom: install $(TOOLS)/installed
	mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --of JSON --output-reproducible -o build/sbom.json
	$(TOOLS)/bin/pip-licenses --python $(BIN)/python --format=csv --output-file=build/licences.csv

# The same commit gives the same bytes of the wheel. To install: pip install --require-hashes -r requirements-serve.txt,
# then pip install --no-deps recsys-*.whl.
release: $(TOOLS)/installed
	rm -rf build/release build/lib
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(TOOLS)/bin/python -m build --wheel -o build/release .
	cp constraints.txt build/release/
	$(TOOLS)/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header --python-version 3.11 \
	    -c constraints.txt --extra serve --extra dashboard --extra traces pyproject.toml -o build/release/requirements-serve.txt
	cd build/release && sha256sum *.whl *.txt > SHA256SUMS

clean:
	rm -rf $(VENV) $(PEERS) $(CLIENT) $(TOOLS) .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage* htmlcov build *.egg-info
