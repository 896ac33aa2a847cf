# make demo: from nothing to an implant.  make test: all tests.  Both make .venv from requirements.txt the first time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch .venv/ready

demo: .venv/ready
	$(BIN)/python -m scripts.make_demo_ct demo --overwrite
	$(BIN)/python -m scripts.complete demo/ct demo/results --overwrite
	$(BIN)/python -m scripts.score demo/results/ct demo/truth/implant.nii.gz

test: .venv/ready
	$(BIN)/python -m pytest --durations=10

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf demo runs .pytest_cache .mypy_cache .ruff_cache
