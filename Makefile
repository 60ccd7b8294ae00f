# The commands that people type; `make help` lists them. `make run` and `make test` need nothing but Python 3.11+, gcc and make.

PYTHON ?= python3
FUZZ_SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
WAITING := tests/attacks tests/faults tests/field tests/rules tests/hostile
PYX := '*.pyx' '*.pxd'
COMPILED := $(wildcard funkenshield/*.p[yx][xd] funkenshield/*/*.p[yx][xd]) setup.py pyproject.toml tools/build

.PHONY: help run demo check test proof fuzz asan tsan debug lint format docs wheel bench bench-micro bench-rules clean

run: $(VENV)/built  ## the small nameserver, and the shield in front of it
	@exec $(BIN)/funkenshield playground

demo: $(VENV)/built  ## the experiment of 2011
	$(BIN)/funkenshield demo

check: $(VENV)/dev  ## what to run while you work, in less than a minute: style, types, quick tests of all modules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@{ git diff HEAD --name-only --diff-filter=d -- $(PYX); git ls-files --others --exclude-standard -- $(PYX); } | \
		PATH="$(BIN):$$PATH" xargs -r cython-lint
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit tests/property tests/conformance -m 'not proof and not slow' --numprocesses=2 --dist=worksteal

test: $(VENV)/dev lint  ## what to run before a commit: everything that must be true, with real nameservers
	tools/install-nameservers
	$(BIN)/python -m pytest tests/integration tests/differential tests/fuzz --numprocesses=2 --dist=worksteal
	$(BIN)/python -m pytest tests/unit tests/property tests/conformance --numprocesses=2 --dist=worksteal
	$(BIN)/python -m pytest $(WAITING) --numprocesses=3 --dist=worksteal  # most of it is waiting

proof: $(VENV)/dev  ## what takes minutes to be shown: floods, attacks, kills, leaks, a lossy link (as root)
	$(BIN)/python -m pytest -m proof -rP tests/proof tests/field

fuzz: $(VENV)/dev  ## a minute of mutations for each reader of what strangers send (with clang)
	$(BIN)/python -m pip install --quiet --group fuzz
	tools/fuzz $(BIN)/python $(FUZZ_SECONDS)

asan tsan debug: $(VENV)/dev  ## tests and a load while memory and undefined behaviour, or races, or bounds are checked
	tools/sanitized $@

lint: $(VENV)/dev  ## format, style, types, stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PATH="$(BIN):$$PATH" cython-lint funkenshield benchmarks/micro
	$(BIN)/mypy
	$(BIN)/stubtest --concise --allowlist tools/stubtest-allowed $$(tools/compiled-modules)

format: $(VENV)/dev  ## put the code in shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

help:  ## what can be made
	@sed -nE 's/^([a-z][a-z -]*):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

docs: $(VENV)/built  ## the pages that are made from the code
	$(BIN)/funkenshield about config > docs/configuration.md
	$(BIN)/funkenshield about metrics > docs/metrics.md
	$(BIN)/funkenshield about rules docs/guide/rules.md > docs/guide/rules.new && mv docs/guide/rules.new docs/guide/rules.md

wheel: $(VENV)/dev  ## wheel and source distribution, and a look whether they run without a compiler
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	tools/try-wheel $(BIN)/python dist/*.whl

bench: $(VENV)/dev  ## half an hour: beside every peer that is installed, with its page
	$(BIN)/python -m benchmarks.system.run --json docs/benchmarks/results.json
	$(BIN)/python -m benchmarks.system.page docs/benchmarks/results.json docs/benchmarks.md

bench-micro: $(VENV)/dev  ## the parts of the fast path, by themselves
	$(BIN)/python -m pytest benchmarks/micro --benchmark-enable --benchmark-only --benchmark-group-by=group

bench-rules: $(VENV)/dev  ## what rules and guard cost for each hit
	$(BIN)/python -m benchmarks.system.rules

$(VENV)/built: $(COMPILED)
	@tools/build $(PYTHON) $(VENV)
	@touch $@

$(VENV)/dev: $(VENV)/built
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # which knows dependency groups
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info && find funkenshield -name "*.so" -delete
