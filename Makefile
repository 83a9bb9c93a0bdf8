# Everything starts here: `make reproduce`, then `make test`.
VENV := .venv
BIN := $(VENV)/bin
# The interpreter that makes the environment; 3.11 and 3.12 are supported.
PYTHON ?= python3

.PHONY: help reproduce confirm verify figures report docs test check install clean

help:
	@echo "make reproduce  environment, quick study, tables and figure (about 12 minutes on 2 cores)"
	@echo "make confirm    runs of the locked study prereg/mini and their verdicts (resumable; see README)"
	@echo "make verify     verdicts from the committed table of runs"
	@echo "make figures    all figures from the committed results (under a minute)"
	@echo "make report     results/mini/report.html, one page on the locked study (seconds)"
	@echo "make docs       pages and API reference in build/docs/; docs/config.md from conf/"
	@echo "make test       all tests (about 11 minutes on 2 cores)"
	@echo "make check      format, lint and types"
	@echo "make clean      remove run records and prepared models (results/ stays)"

reproduce: install
	$(BIN)/opdcliff study protocol=quick

confirm: install
	$(BIN)/opdcliff confirm protocol=mini
	$(BIN)/opdcliff verify protocol=mini

verify: install
	$(BIN)/opdcliff verify protocol=mini source=table

figures: install
	$(BIN)/opdcliff figures

report: install
	$(BIN)/opdcliff report protocol=mini

docs: install
	$(BIN)/python docs/make_config.py
	rm -rf build/docs
	$(BIN)/python docs/make_site.py build/docs

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: install
	$(BIN)/ruff format --check src tests docs/*.py
	$(BIN)/ruff check src tests docs/*.py
	$(BIN)/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); \
	    sys.exit(0 if ok else "opd-cliff needs Python 3.11 or 3.12, and %s is %d.%d; set PYTHON=python3.12" \
	    % (sys.executable, *sys.version_info[:2]))'
	$(PYTHON) -m venv $(VENV)
	@# torch first and pinned exactly: a range may pull a newer build of several GB.
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,launchers]"
	@touch $@

clean:
	rm -rf runs
