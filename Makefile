# make help says what there is.
PYTHON ?= python3
VENV ?= .venv
TEST_WORKERS ?= 2
ARGS ?=
BROWSER ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name) 2>/dev/null)))

BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup test test-page demo lint format clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo "make setup    a virtual environment with the pinned versions, Detectron2 and this package (once)"
	@echo "make test     setup, then ruff and the tests with coverage of paramap_d2"
	@echo "make test-page  the pages of a search in a headless Chromium: axe-core, small screens, keys"
	@echo "make demo     setup, then evolve a loss for a small RetinaNet and retrain with it: output/demo/"
	@echo "make lint     setup, then ruff alone"
	@echo "make format   setup, then let ruff rewrite the files"
	@echo "make clean    remove what tests and builds leave behind (not $(VENV), not output/)"
	@echo
	@echo "PYTHON=python3.11  the Python that makes the environment (3.11 or newer; now: $(PYTHON))"
	@echo "VENV=folder        where the environment goes (now: $(VENV))"
	@echo "BROWSER=file       the Chromium of test-page (now: $(or $(BROWSER),none found))"
	@echo "ARGS='...'         further options for pytest or the demo, e.g. make test ARGS='-k loss'"
	@echo
	@echo "Your own environment, with your own torch and compiled Detectron2 (make setup would put the pinned torch"
	@echo "in): activate it and run"
	@echo "    pip install -e '.[all,dev]' && python tools/get_detectron2.py"
	@echo "which leaves a Detectron2 that can be imported alone; then call python tools/... and pytest yourself."

setup: $(STAMP)

# setuptools comes first: three of the pinned packages are built from source, and with the pinned one.
$(STAMP): requirements.lock setup.py paramap_d2/cli/get_detectron2.py
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; set PYTHON=, e.g. make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: the pinned versions need Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); try make setup PYTHON=python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: $(PYTHON) cannot make a virtual environment in $(VENV) (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "installing the pinned packages into $(VENV) (some gigabytes, most of it torch: minutes)"
	@$(PIP) install --quiet "$$(grep '^setuptools==' requirements.lock)"
	@$(PIP) install --quiet --no-build-isolation --requirement requirements.lock
	@$(BIN)/python tools/get_detectron2.py
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
	@echo "set up: $(VENV)"

# One thread in each test process: the processes are what runs in parallel.
test: export OMP_NUM_THREADS = 1
test: lint
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal --cov=paramap_d2 \
		$(if $(ARGS),,--cov-fail-under=90) $(ARGS)

# A browser is none of the pinned packages: where there is none, make test leaves these tests out.
test-page: setup
	@test -n "$(BROWSER)" || { echo "error: no Chromium found; name one with BROWSER=, e.g. make test-page BROWSER=/usr/bin/chromium (on Debian: apt install chromium)" >&2; exit 1; }
	PARAMAP_BROWSER="$(BROWSER)" $(BIN)/python -m pytest tests/search/report/test_in_browser.py $(ARGS)

demo: setup
	$(BIN)/python tools/demo.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .pytest_cache .ruff_cache *.egg-info
	find paramap_d2 tools tests projects benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
