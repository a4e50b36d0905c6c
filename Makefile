# Two commands on a fresh machine with Python 3.11 or 3.12, make and a C compiler:
#   make demo   set up .venv and run the whole circle on the shipped demo songs
#   make test   set up .venv and run the test suite
# and `make samples`: sing a dozen lines and process four songs, on one page: samples/index.html
VENV ?= .venv
LOCK ?= requirements/dev.txt
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
RUN = $(VENV)/bin/python
STAMP = $(VENV)/.installed

.PHONY: demo samples test test-long lint types layers check setup lock clean

setup: $(STAMP)

$(STAMP): $(LOCK) pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.11 or 3.12 on PATH (or: make PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv==0.9.8
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --require-hashes -r $(LOCK)
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(RUN) -m autosing.cli.demo

samples: setup
	$(RUN) -m autosing.cli.samples

test: setup
	$(RUN) -m pytest -q -n auto --maxprocesses 4

test-long: setup
	$(RUN) -m pytest -q -m long

lint: setup
	$(VENV)/bin/ruff check .

types: setup
	$(VENV)/bin/basedpyright --pythonpath $(RUN)

layers: setup
	$(VENV)/bin/lint-imports

check: lint types layers test

# The locked files: dev.txt for development and the demo (any system), all.txt with every extra (Linux; whisperx pins torch 2.8).
lock:
	uv pip compile pyproject.toml --extra dev --constraint requirements/torch-2.11.in --universal --generate-hashes \
		--no-emit-index-url --no-header --python-version 3.11 -o requirements/dev.txt
	uv pip compile pyproject.toml --extra dev --extra all --constraint requirements/torch-2.8.in --python-platform linux --generate-hashes \
		--no-emit-index-url --no-header --python-version 3.11 -o requirements/all.txt

clean:
	rm -rf $(VENV) demo/work samples build dist *.egg-info
