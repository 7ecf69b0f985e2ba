# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-slow test-gpu bench-peers format clean

demo: $(STAMP)
	$(BIN)/sightline train yolov7-tiny-world

test: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

test-slow: $(STAMP)
	$(BIN)/pytest -m slow --timeout 3600

test-gpu: $(STAMP)
	$(BIN)/pytest -m gpu

bench-peers: $(STAMP)
	$(BIN)/pip install -e '.[bench]'

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs
