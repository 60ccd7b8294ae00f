# The commands that people type; `make help` lists them. `make run` and `make test` need nothing but Python 3.11+, gcc and make.

PYTHON ?= python3
PYTHONS ?= $(PYTHON)
FUZZ_SECONDS ?= 60
CPYTHON ?= 3.13
BASE ?= docker.io/library/debian:trixie-slim
HERE := $(shell . /etc/os-release 2>/dev/null && echo "$$VERSION_CODENAME")
SUITE ?= $(HERE)
VENV := .venv
BIN := $(VENV)/bin
PYX := '*.pyx' '*.pxd'
unexport PYTHONDONTWRITEBYTECODE  # or each of a thousand daemons that tests start would compile all sources anew
# What was left out of the last build for want of a library's headers, where these are there by now.
LEFT_OUT := $(shell ls funkenshield/server/_tls.*.so >/dev/null 2>&1 || ! tools/has-headers openssl || echo left-out)
LEFT_OUT += $(shell ls funkenshield/server/_http2.*.so >/dev/null 2>&1 || ! tools/has-headers nghttp2 || echo left-out)
LEFT_OUT += $(shell ls funkenshield/xdp/queries.bpf.o funkenshield/xdp/answers.bpf.o >/dev/null 2>&1 || ! tools/has-headers bpf || echo left-out)
COMPILED := $(wildcard funkenshield/xdp/*.[ch])
COMPILED += $(wildcard funkenshield/*.p[yx][xd] funkenshield/*/*.p[yx][xd]) setup.py pyproject.toml tools/build

.PHONY: help run demo check test others left-out proof browsers fuzz asan tsan debug coverage lint lint-docs format docs docs-site pictures wheel wheels wheels-test sdist-test release-check
.PHONY: deb deb-test container container-test kubernetes pins bench bench-micro bench-nodes bench-rules bench-xdp clean

run: $(VENV)/$(if $(wildcard $(VENV)/built),built,playable)  ## run the small nameserver, and the shield in front of it
	@exec $(BIN)/funkenshield playground

demo: $(VENV)/built  ## repeat the experiment of 2011
	$(BIN)/funkenshield demo

check: $(VENV)/dev  ## style, types and quick tests of all modules, in less than a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@{ git diff HEAD --name-only --diff-filter=d -- $(PYX); git ls-files --others --exclude-standard -- $(PYX); } | \
		PATH="$(BIN):$$PATH" xargs -r cython-lint
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit tests/property tests/conformance -m 'not proof and not slow' --hypothesis-profile=quick --numprocesses=2 --dist=worksteal

test: others lint  ## the whole test suite, with real nameservers; run it before a commit
	$(BIN)/python -m pytest --numprocesses=3 --dist=worksteal  # more than there are cores: much of it is waiting

proof: $(VENV)/dev  ## tests that take minutes: floods, attacks, kills, leaks, packet loss, anycast (as root)
	@[ "$$(id -u)" -ne 0 ] || tools/install-bgp $(BIN)/python
	$(BIN)/python -m pytest -m proof -rP tests/proof tests/field tests/conformance
	$(BIN)/python -m pytest tests/property --hypothesis-profile=thorough --numprocesses=2 --dist=worksteal

browsers: $(VENV)/dev  ## what Firefox and Chromium see, which are installed for that
	tools/install-browsers
	$(BIN)/python -m pytest -m browser tests/browsers

fuzz: $(VENV)/dev  ## fuzz each parser of untrusted data for a minute (with clang)
	$(BIN)/python -m pip install --quiet --group fuzz
	tools/fuzz $(BIN)/python $(FUZZ_SECONDS)

asan tsan debug: $(VENV)/dev  ## tests and a load under sanitizers for memory and undefined behaviour, for races, or with bounds checks
	tools/sanitized $@

coverage: $(VENV)/dev  ## which lines and branches the tests reach, of Python and of what is compiled, into build/coverage/report
	$(BIN)/python -m pip install --quiet --group coverage
	$(BIN)/python tools/coverage

lint: $(VENV)/dev | $(filter others,$(MAKECMDGOALS:test=others))  ## format, style, types, stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PATH="$(BIN):$$PATH" cython-lint funkenshield benchmarks/micro
	$(BIN)/mypy
	$(BIN)/stubtest --concise --allowlist tools/stubtest-allowed $$(tools/compiled-modules)

lint-docs: $(VENV)/dev  ## links, examples and generated pages; workflows
	$(BIN)/python -m pytest --quiet tests/unit/test_docs.py tests/unit/test_links.py tests/unit/test_contrib.py tests/unit/test_workflows.py
	$(BIN)/python -m pip install --quiet --group workflows
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet --min-severity medium .github
	if command -v actionlint >/dev/null; then actionlint; fi  # which no index has in a form for pip

format: $(VENV)/dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

help:  ## list the targets
	@sed -nE 's/^([a-z][a-z -]*):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

docs: $(VENV)/built  ## generate the pages that come from the code, the manual and shell completion too
	$(BIN)/funkenshield docs config > docs/configuration.md
	$(BIN)/funkenshield docs commands > docs/commands.md
	$(BIN)/funkenshield docs metrics > docs/metrics.md
	$(BIN)/funkenshield docs rules docs/guide/rules.md > docs/guide/rules.new && mv docs/guide/rules.new docs/guide/rules.md
	$(BIN)/funkenshield docs man funkenshield.1 > contrib/man/funkenshield.1
	$(BIN)/funkenshield docs man funkenshield.toml.5 > contrib/man/funkenshield.toml.5
	$(BIN)/funkenshield docs completion bash > contrib/completion/bash/funkenshield
	$(BIN)/funkenshield docs completion zsh > contrib/completion/zsh/_funkenshield
	$(BIN)/funkenshield docs completion fish > contrib/completion/fish/funkenshield.fish

docs-site: $(VENV)/site  ## the site of docs/, into build/site
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet

pictures: $(VENV)/built  ## pictures of the web page and of top, busy, idle and gone, by Chromium, into build/pictures
	$(BIN)/python tools/pictures build/pictures

wheel: $(VENV)/dev  ## wheel and source distribution, tested without a compiler
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	tools/try-wheel $(BIN)/python dist/*.whl

wheels: $(VENV)/wheels  ## wheels that PyPI takes, for this machine, tried: by containers, or else for PYTHONS="python3.11 ..."
	rm -rf dist
	$(BIN)/python -m build --sdist --outdir dist
	tools/wheels $(PYTHONS)
	FUNKENSHIELD_NETWORK=keep $(BIN)/python -m pytest -m release tests/release/test_sdist.py tests/release/test_wheels.py

wheels-test: $(VENV)/wheels  ## run those for CPYTHON=3.13 on glibc 2.31, and on musl (as root)
	tools/try-elsewhere $(CPYTHON)

sdist-test:  ## install the source distribution in dist as pip does, and run its quick tests
	tools/try-sdist $(PYTHON)

release-check: $(VENV)/dev  ## what is missing for a release of this version (RELEASE=TAG: of what stands at a tag)
	$(BIN)/python -m pip install --quiet --group release
	$(BIN)/python tools/release-check $(RELEASE)

deb:  ## Debian's package, for this Debian and its Python, or for SUITE=trixie, looked at by lintian; into build/debian
	$(if $(filter $(HERE),$(SUITE)),tools/deb,tools/with-podman tools/deb-in $(SUITE)) build/debian

deb-test: $(VENV)/dev  ## try it: in containers with a service manager, as a newcomer and an upgrade do (as root; takes podman)
	tools/with-podman tools/debian-image $(SUITE)
	SUITE=$(SUITE) FUNKENSHIELD_NETWORK=keep tools/with-podman $(BIN)/python -m pytest -m release -rP tests/release/test_debian_package.py tests/release/test_quickstart.py

container:  ## the image localhost/funkenshield, by podman; BASE=... is another Debian than trixie
	tools/with-podman tools/container $(BASE)

container-test: $(VENV)/dev  ## try it: confined, drained, without zombies, in front of an upstream by name (as root)
	FUNKENSHIELD_NETWORK=keep tools/with-podman $(BIN)/python -m pytest -m release -rP tests/release/test_image.py

kubernetes: $(VENV)/dev  ## the manifests in contrib/kubernetes, by Helm's own library from the chart, and see that Kubernetes takes them
	$(BIN)/python -m pip install --quiet --group kubernetes
	$(BIN)/python tools/render-chart front > contrib/kubernetes/front.yaml
	$(BIN)/python tools/render-chart node > contrib/kubernetes/node.yaml
	$(BIN)/python -m pytest -m release tests/release/test_kubernetes.py

pins:  ## pin what packages and images carry, at what is newest
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--extra quic --extra redis --group build --output-file contrib/requirements.txt pyproject.toml

bench: $(VENV)/dev  ## benchmarks beside every installed peer, forty minutes, with their page
	$(BIN)/python -m benchmarks.system.run --json docs/benchmarks/results.json
	$(BIN)/python -m benchmarks.system.page docs/benchmarks/results.json docs/benchmarks.md

bench-micro: $(VENV)/dev  ## benchmarks of the parts of the fast path
	$(BIN)/python -m pytest benchmarks/micro --benchmark-enable --benchmark-only --benchmark-group-by=group

bench-nodes: $(VENV)/dev  ## benchmark of nodes that share a store: queries to the origin, latencies of misses; a hundred nodes, simulated
	$(BIN)/python -m benchmarks.system.nodes
	$(BIN)/python -m benchmarks.system.fleet

bench-rules: $(VENV)/dev  ## benchmark of the cost of rules and guard per hit
	$(BIN)/python -m benchmarks.system.rules

bench-xdp: $(VENV)/dev  ## what queries from an interface cost, beside floors, Knot DNS and dnsdist; as root
	$(BIN)/python -m benchmarks.xdp.run

$(VENV)/playable: $(COMPILED)  # what a first look takes, sooner
	@FUNKENSHIELD_BUILD=playground tools/build $(PYTHON) $(VENV)
	@touch $@

$(VENV)/built: $(COMPILED) $(LEFT_OUT)
	@[ ! -e $(VENV)/playable ] || find funkenshield -name "*.so" -delete -o -name "*.bpf.o" -delete
	@rm -f $(VENV)/playable
	@tools/build $(PYTHON) $(VENV)
	@touch $@

$(VENV)/dev: $(VENV)/built
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # which knows dependency groups
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

$(VENV)/site: pyproject.toml  # which takes no compiler
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group site
	@touch $@

$(VENV)/wheels: pyproject.toml  # which take no compiler of this machine
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group wheels
	@touch $@

left-out:

others: $(VENV)/dev  # what the tests run, and what is built with that
	tools/install-nameservers
	@ls funkenshield/server/_tls.*.so funkenshield/server/_http2.*.so funkenshield/xdp/queries.bpf.o funkenshield/xdp/answers.bpf.o >/dev/null 2>&1 || $(BIN)/python setup.py --quiet build_ext --inplace

clean:
	rm -rf $(VENV) build dist *.egg-info && find funkenshield -name "*.so" -delete -o -name "*.bpf.o" -delete
