# Everything starts here: `make reproduce`, then `make test`.
VENV := .venv
BIN := $(VENV)/bin
# The interpreter that makes the environment; 3.11 and 3.12 are supported.
PYTHON ?= python3
EXTRAS := dev,formats,grammar,judge,launchers,lora,smollm2

.PHONY: help reproduce confirm verify figures report rehearsal docs renew renew-docs test test-all check install clean

help:
	@echo "make reproduce  environment, quick study, its numbers beside the committed ones (10 minutes"
	@echo "                on two slow cores where it was measured; says how long it takes here)"
	@echo "make confirm    runs of the locked study prereg/mini and their verdicts (resumable; see README)"
	@echo "make verify     verdicts from the committed table of runs"
	@echo "make figures    all figures from the committed results, in runs/results/ (under a minute)"
	@echo "make report     report.html, one page on the locked study, in runs/results/ (seconds)"
	@echo "make rehearsal  the paper's road on stand-ins, from raw rows to verdict and page (docs/paper.md)"
	@echo "make docs       pages and API reference in build/docs/"
	@echo "make renew      overwrite the committed figures and pages in results/ and docs/"
	@echo "make renew-docs overwrite docs/config.md and docs/default_config.yaml from conf/"
	@echo "make test       tests, but for those that repeat others in more cases (minutes on 2 idle cores)"
	@echo "make test-all   all tests"
	@echo "make check      format, lint and types"
	@echo "make clean      remove runs/: records, prepared models, your results (results/ stays)"

reproduce: install
	$(BIN)/opdcliff study protocol=quick
	$(BIN)/opdcliff compare protocol=quick

confirm: install
	$(BIN)/opdcliff confirm protocol=mini
	$(BIN)/opdcliff verify protocol=mini

verify: install
	$(BIN)/opdcliff verify protocol=mini source=table

figures: install
	$(BIN)/opdcliff figures

report: install
	$(BIN)/opdcliff report protocol=mini

# ROWS=FOLDER takes raw rows of your own.
rehearsal: install
	bash benchmarks/rehearsal.sh $(ROWS)

# Only these two write files that are in git.
renew: install
	$(BIN)/opdcliff figures renew_committed=true
	$(BIN)/opdcliff report protocol=mini renew_committed=true

renew-docs: install
	$(BIN)/python docs/make_config.py

docs: install
	rm -rf build/docs
	$(BIN)/python docs/make_site.py build/docs

# In the order of tests/conftest.py: the longest modules first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) -m "not whole"

test-all: install
	$(PYTEST)

check: install
	$(BIN)/ruff format --check src tests docs/*.py
	$(BIN)/ruff check src tests docs/*.py
	$(BIN)/mypy

install: $(VENV)/.installed

# What pip is told of a setting by its files and its variables; uv reads neither.
told = $$($(BIN)/python -m pip config list 2>/dev/null | sed -n "s/^.*\.$(1)='\(.*\)'$$/\1/p" | head -n 1)

# By uv, in a tenth of pip's time; where uv cannot, by pip.
define put_in
	@links="$(call told,find-links)"; index="$(call told,index-url)"; cert="$(call told,cert)"; \
	env UV_LINK_MODE=copy $${links:+"UV_FIND_LINKS=$$links"} $${index:+"UV_DEFAULT_INDEX=$$index"} \
	    $${cert:+"SSL_CERT_FILE=$$cert"} $(BIN)/uv pip install -q --python $(BIN)/python $(1) || \
	{ echo "uv could not install these; pip does, which takes longer"; \
	    $(BIN)/python -m pip install -q $(1); }
endef

$(VENV)/.installed: pyproject.toml constraints.txt tests/tokenizers.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); \
	    sys.exit(0 if ok else "opd-cliff needs Python 3.11 or 3.12, and %s is %d.%d; set PYTHON=python3.12" \
	    % (sys.executable, *sys.version_info[:2]))'
	$(PYTHON) -m venv $(VENV)
	@# torch first and pinned exactly: a range may pull a newer build of several GB.
	@$(BIN)/python -m pip install -q -c constraints.txt uv || echo "uv could not be installed"
	$(call put_in,-c constraints.txt torch)
	$(call put_in,-c constraints.txt -e ".[$(EXTRAS)]")
	@# For tests alone, which are skipped without them.
	@$(BIN)/python -m pip install -q --no-deps -r tests/tokenizers.txt || \
	    echo "published tokenizers could not be installed; their tests will be skipped"
	@touch $@

clean:
	rm -rf runs
