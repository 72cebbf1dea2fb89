# Each target makes .venv and installs the project first when that has not been done.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: app test check figures clean

app: .venv/installed
	$(BIN)/vssm app

test: .venv/installed
	$(BIN)/pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

figures: .venv/installed
	$(BIN)/vssm erf --model vmamba_tiny_s1l8 vim_tiny mambavision_tiny --images samples --size 224 --out out

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv build dist out *.egg-info
