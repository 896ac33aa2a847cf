# make demo: from nothing to an implant.  make test: all tests.  Both make .venv from requirements.txt the first time.
# make label STUDIES=folder: MONAI Label's server for 3D Slicer, in .venv-label from requirements-label.txt.
PYTHON ?= python3
BIN := .venv/bin
LABEL := .venv-label/bin
PORT ?= 8000
FOLDER ?= .label

.PHONY: demo test lint label test-label clean

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch .venv/ready

demo: .venv/ready
	$(BIN)/python -m scripts.make_demo_ct demo --overwrite
	$(BIN)/python -m scripts.complete demo/ct demo/results --overwrite
	$(BIN)/python -m scripts.score demo/results/ct demo/truth/implant.nii.gz

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations=10

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv-label/ready: requirements-label.txt label/torchvision_operators.py
	$(PYTHON) -m venv .venv-label
	$(LABEL)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-label.txt
	$(LABEL)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		$$(sed -n 's/^# no-deps: //p' requirements-label.txt)
	$(LABEL)/python label/torchvision_operators.py
	touch .venv-label/ready

label: .venv-label/ready
	@test -n "$(STUDIES)" || { echo "make label: STUDIES must name a folder of images, as in STUDIES=scans" >&2; exit 2; }
	$(LABEL)/python -m scripts.serve_label "$(STUDIES)" --port $(PORT) --folder "$(FOLDER)"

test-label: .venv-label/ready
	$(LABEL)/python -m pytest -m label --durations=10 tests/slicer/test_label_server.py tests/test_label_training.py \
		tests/slicer/test_label_figures.py tests/test_model_zoo.py tests/test_dicomweb.py

clean: # runs and .label stay: trainings and a site's own weights are there
	rm -rf demo dist .pytest_cache .mypy_cache .ruff_cache
