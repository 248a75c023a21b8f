# Two commands do all the set-up: `make demo` and `make test`. Each makes the virtual environment
# itself, in .venv, and says what it does.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEV_EXTRAS := any-llm,browser,dev,train,fast,graders,lm,maths,otel,pii,postgres,ray,static,sentence
# Compiling all that is installed takes longer than compiling what is imported, once, when it is.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Many tests wait for processes and sockets: two for every core keep the cores busy.
WORKERS = $(shell $(BIN)/python -c "import os; print(min(2 * (os.cpu_count() or 1), 8))")
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test postgresql node browser models screenshots fuzz check site package lock sbom format docs notebook api tutorial bench sandbox clean

demo: $(VENV)/.installed
	$(BIN)/routewright demo $(if $(ONCE),--once)

test: $(VENV)/.installed-dev postgresql node browser models
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --durations 30

postgresql:  ## install Debian's server for the tests; where that is not possible, say why and go on
	@sh dev/install_postgresql.sh

node:  ## install the clients of Node for the tests, once; where that is not possible, say why and go on
	@sh dev/install_node_clients.sh

browser:  ## install Debian's Chromium for the tests; where that is not possible, say why and go on
	@sh dev/install_browser.sh

screenshots: $(VENV)/.installed-dev browser  ## make the pictures of the dashboard: docs/pictures
	$(BIN)/python dev/screenshots.py

models: $(VENV)/.installed-dev  ## install small pretrained models for the tests; where that is not possible, say why and go on
	@sh dev/install_real_models.sh $(BIN)/python

fuzz: $(VENV)/.installed-dev  ## random inputs for FUZZ_MINUTES (60); prints the seed of each round
	$(BIN)/python dev/fuzz.py

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPY_NUM_WORKERS=auto $(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python dev/check_docs.py
	$(BIN)/python dev/check_api.py
	$(BIN)/python dev/run_docs.py
	$(SITE)
	$(BIN)/python dev/lock.py --check $(DEV_EXTRAS)
	$(BIN)/python dev/audit.py
	$(BIN)/python dev/count_lines.py

site: $(VENV)/.installed-dev  ## build the documentation into build/site; a dead link is an error
	$(SITE)

package: $(VENV)/.installed-dev  ## build sdist and wheel, and try both on every Python that is here
	$(BIN)/python dev/check_packages.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev  ## write the parts of docs/ that are generated
	$(BIN)/python dev/check_docs.py --write

notebook: $(VENV)/.installed-dev  ## run the notebooks of docs/notebooks, and keep what they print
	$(BIN)/python dev/run_notebooks.py

api: $(VENV)/.installed-dev  ## accept the public API as it is now: dev/api.json
	$(BIN)/python dev/check_api.py --write

tutorial: $(VENV)/.installed-dev  ## run docs/tutorials/from-zero.md, and check its figures
	$(BIN)/python dev/run_tutorial.py

lock: $(VENV)/.installed-dev  ## upgrade the development environment, and pin it: dev/constraints.txt
	$(BIN)/python dev/lock.py $(DEV_EXTRAS)

sbom: $(VENV)/.installed-dev  ## write sbom.json: what `pip install routewright` brings (CycloneDX)
	$(PYTHON) -m venv --clear build/runtime
	build/runtime/bin/python -m pip install --quiet --constraint dev/constraints.txt .
	build/runtime/bin/python -m pip uninstall --quiet --yes pip setuptools
	$(BIN)/cyclonedx-py environment build/runtime --pyproject pyproject.toml --output-reproducible --output-file sbom.json

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench

sandbox: $(VENV)/.installed-dev  ## train the three tiny models of the demo again
	$(BIN)/python -m routewright.sandbox.train

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache routewright-demo

$(VENV)/bin/python:
	@echo "making the virtual environment $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "routewright needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing routewright into $(VENV): silent for a minute or more"
	@$(PIP) --editable '.[fast,train]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml dev/constraints.txt | $(VENV)/bin/python
	@echo "installing routewright and its development tools into $(VENV): silent for some minutes"
	@$(PIP) --constraint dev/constraints.txt --editable '.[$(DEV_EXTRAS)]'
	@touch $@ $(VENV)/.installed
