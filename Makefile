# Each target makes .venv and installs the project first when that has not been done.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: app test check figures docs gpu clean

app: .venv/installed
	$(BIN)/vssm app

test: .venv/installed
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

figures: .venv/installed
	$(BIN)/vssm figures analyses/configs/gallery.yaml --out out/figures

docs: .venv/installed
	$(BIN)/pip install --quiet --editable ".[docs]"
	$(BIN)/pytest --quiet tests/test_site.py
	$(BIN)/mkdocs build

# On a machine with an NVIDIA GPU. The comparison with mamba_ssm runs where that is installed too.
gpu: .venv/installed
	$(BIN)/pytest -m gpu
	$(BIN)/python benchmarks/scan_gpu.py --out benchmarks/results/scan_gpu.json

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv build dist out site *.egg-info
