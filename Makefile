# make demo   installs into .venv and runs the whole way on synthesised speech: results in demo-out/
# make test   the default tests (under ten minutes on 2 cores)
# make test-processes  those of several processes and of benchmarks (some six);  make test-slow  the long ones
# make lint   ruff and mypy

# The first of these that exists and is 3.10 to 3.12; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-processes test-slow lint clean

demo: $(INSTALLED)
	$(BIN)/hubertkit demo --out demo-out

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

test-processes: $(INSTALLED)
	$(BIN)/python -m pytest -q -m "processes and not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -q -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

# setup.py and pyproject.toml name everything that is installed, so only they make it stale.
$(INSTALLED): setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "hubertkit needs Python 3.10, 3.11 or 3.12; none was found on the PATH"; exit 1; }
	@command -v cmake >/dev/null || { echo "kenlm is compiled here and needs cmake and a C++ compiler: install them"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip setuptools wheel
	$(BIN)/python -m pip install -e ".[demo,hf,dev]"
	@touch $@

clean:
	rm -rf .venv build *.egg-info demo-out
