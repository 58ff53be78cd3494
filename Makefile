# make demo · make test · make lint · make bench · make fuzz · make study-kills
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint format bench fuzz study-kills study-flower clean
.DEFAULT_GOAL := demo

$(VENV)/installed: pyproject.toml exporters/pyproject.toml tools/pyproject.toml constraints.txt
	@echo "installing into $(VENV): about two minutes, PyTorch is large"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]" -e "exporters[federation,gateway,postgresql,flower]" -e "tools[bench]"
	@touch $@

demo: $(VENV)/installed ## the main job on the built-in data, into demo/
	$(BIN)/edgerec demo --out demo

test: lint ## everything the README claims
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed ## speed and size against peers, as ratios in one run
	$(BIN)/edgerec bench

fuzz: $(VENV)/installed ## inputs that nobody would send in good faith, from where the last run stopped
	$(BIN)/python -m edgerec_tools.fuzz --resume build/fuzz --seconds $(or $(SECONDS),60)

study-kills: $(VENV)/installed ## ten thousand kills at write boundaries, into docs/results/kills.md
	$(BIN)/python tests/faults/study.py

study-flower: $(VENV)/installed ## whole deployments of Flower on loopback, into docs/results/flower.md
	$(BIN)/python tests/flower_study.py

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
