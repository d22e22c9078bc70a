# One environment for everything: .venv, its versions pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1

.PHONY: demo test browser soak bench lint docs figures wheel constraints clean
.DEFAULT_GOAL := demo

demo: .venv/installed
	$(BIN)/layerwise study gutstein --experiments levels

test: .venv/installed browser
	$(BIN)/pytest -n 2 -m "not soak"

# What tests in a browser need and pip does not bring; without it they are skipped by name.
browser:
	@command -v chromium >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing chromium for the tests in a browser ..." \
		&& apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
		|| echo "No chromium here, and no right to install it: tests in a browser are skipped (install the package chromium)"

soak: .venv/installed
	$(BIN)/pytest -n 0 -m soak

bench: .venv/installed
	$(BIN)/python benchmarks/run.py

lint: .venv/installed
	$(BIN)/ruff check src tests benchmarks docs examples
	$(BIN)/ruff format --check src tests benchmarks docs examples
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

figures: .venv/installed
	$(BIN)/python docs/figures.py

wheel: .venv/installed
	rm -rf build dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

.venv/installed: pyproject.toml constraints.txt
	@echo "Making the environment in .venv (about 2.5 GB, a few minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	touch $@

constraints: .venv/installed
	$(BIN)/pip freeze --exclude-editable | sed 's/ @ .*//' > constraints.txt

clean:
	rm -rf .venv build dist site layerwise-store layerwise-out
