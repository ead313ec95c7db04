.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install run test lint format docs bench bench-gpu clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# Reinstalled only when the dependencies change.
$(INSTALLED): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@

install: $(INSTALLED) ## Create .venv and install the package with its development tools

run: $(INSTALLED) ## The main job on the embedded sample: pretrain, fine-tune, evaluate, recommend (CPU, minutes)
	$(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		examples/transfer.py --use_cpu true --output_dir outputs/sample

test: $(INSTALLED) ## Lint and run the tests (offline, CPU)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

lint: $(INSTALLED) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

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
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache outputs
