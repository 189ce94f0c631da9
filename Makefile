# Everything this repository does starts here; `make` alone lists it. All it needs is make and
# Python 3.11 or newer: the rest is installed into .tools and .venv, at pinned versions.

PYTHON ?= python3
SEEDS ?= 1000
SECONDS ?= 120
PROCESSES ?= auto

UV := .tools/uv/bin/uv
READY := .venv/.ready .tools/ministack/.ready .tools/sam/.ready .tools/localstripe/.ready

# One interpreter everywhere: uv could find or download another one, and the embedded stack runs the
# functions on the version that they were built for.
export UV_PYTHON := $(CURDIR)/.tools/uv/bin/python
export UV_PYTHON_DOWNLOADS := never
# The caller's active venv must not be used.
unexport VIRTUAL_ENV

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup demo down replay test test-quick simulate explore mutants kill-test
.PHONY: bench bench-model bench-quick pictures reference tutorial docs docs-serve lint format types template
.PHONY: security audit lock byte-code clean
.PHONY: FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## install the tools and the project into this checkout

demo: $(READY) ## deploy to the embedded stack, send the sample events, show the results: PORT=4566
	@.venv/bin/agent-credits-demo samples $(if $(PORT),--port $(PORT))

down: .venv/.ready ## stop the embedded stack
	@.venv/bin/agent-credits local down

replay: $(READY) ## send a production trace through the embedded stack, verify the ledger: PORT=4566
	@.venv/bin/agent-credits-demo replay $(if $(PORT),--port $(PORT))

# The tests run in as many processes as there are cores, but in no more than four: those on the
# embedded stack have to follow one another, and the rest is done before they are. Progress shows
# while they run. PROCESSES=0 runs all of them in one process, as plain pytest does.
PYTEST := .venv/bin/pytest --numprocesses=$(PROCESSES) --maxprocesses=4

# Two checks at a time, and all of them even if one fails. The output of each stands together, unless
# make is too old for that (macOS brings version 3.81).
CHECK := $(MAKE) --no-print-directory --jobs=2 --keep-going \
	$(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# DynamoDB Local needs Java and Maven, and matplotlib is large: the tests of both are skipped where
# they are not installed, except in continuous integration.
ifdef CI
test: .tools/dynamodb-local/.ready .tools/plots/.ready .tools/schemathesis/.ready
endif

test: $(READY) ## run every check: lint, types, template, security, docs, tests; PROCESSES=1
	@+$(CHECK) lint types template security docs
	$(PYTEST)

test-quick: .venv/.ready .tools/localstripe/.ready ## run every check that needs no embedded stack
	@+$(CHECK) lint types docs
	$(PYTEST) -m "not e2e and not aws"

simulate: .venv/.ready ## run seeded histories with faults: SEEDS=1000, SEEDS=7..9 or SEEDS==42
	@PYTHONHASHSEED=0 .venv/bin/python -m tests.simulation.simulate $(SEEDS)

explore: .venv/.ready ## check every state of the models of the write protocol and the saga
	@.venv/bin/python -m tests.simulation.explore

mutants: .venv/.ready ## remove each line that a guarantee rests on, and check that a test fails
	@.venv/bin/python -m tests.guarantees.mutants

kill-test: $(READY) ## kill consumers and the emulator during replays: SECONDS=120
	@.venv/bin/python -m tests.e2e.kills $(SECONDS)

bench: $(READY) .tools/plots/.ready ## measure this and other designs, and write the docs
	@AWS_DEFAULT_REGION=us-east-1 .venv/bin/python -m tests.benchmarks.bench

bench-model: .venv/.ready .tools/plots/.ready ## apply the prices and the template to what was measured
	@AWS_DEFAULT_REGION=us-east-1 .venv/bin/python -m tests.benchmarks.bench --model

bench-quick: .venv/.ready .tools/ministack/.ready .tools/sam/.ready ## check the cost of an event against its bounds
	@.venv/bin/python -m tests.benchmarks.bench --quick

pictures: .venv/.ready ## draw the pictures of the documentation
	@.venv/bin/python tools/pictures.py

reference: .venv/.ready ## write docs/reference after a change of what it lists
	@.venv/bin/python -m tools.reference

tutorial: $(READY) ## run the commands of the tutorial and the README, and write what they print
	@.venv/bin/python -m tests.e2e.pages

# Material for MkDocs would advertise its successor with each build.
docs: export NO_MKDOCS_2_WARNING := 1
docs: .tools/docs/.ready ## build the documentation into .site and check its links
	@.tools/docs/bin/mkdocs build

docs-serve: export NO_MKDOCS_2_WARNING := 1
docs-serve: .tools/docs/.ready ## serve the documentation on port 8000 while you write it
	@.tools/docs/bin/mkdocs serve

lint: .venv/.ready ## check style, format and imports between rooms
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports --no-cache

format: .venv/.ready ## format the code and fix what can be fixed
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

types: .venv/.ready ## check the types of functions, package and command lines
	.venv/bin/mypy

# Validation is offline, but SAM insists on a region and looks for credentials first.
template: $(READY) ## validate the template with SAM
	env -u AWS_PROFILE AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test SAM_CLI_TELEMETRY=0 \
		.tools/sam/bin/sam validate --lint --region us-east-1

# checkov leaves out what is deployed only under a condition, so it is shown a copy without them.
security: .tools/bandit/.ready .tools/checkov/.ready ## check for insecure Python and insecure resources
	.tools/bandit/bin/bandit --quiet --configfile pyproject.toml --recursive \
		shared functions cli local tools clients/python/src
	sed 's/^    Condition: /    # &/' template.yaml > .tools/template-without-conditions.yaml
	.tools/checkov/bin/checkov --config-file .checkov.yaml \
		--file .tools/template-without-conditions.yaml

# Every file of pins. What is known of them changes from day to day, so this is no part of `test`; it
# asks PyPI, and --strict makes a package that PyPI does not answer for a failure.
AUDITED := shared/requirements.txt $(wildcard functions/*/requirements.txt) $(wildcard tools/*.txt)
ACCEPTED := $(shell sed 's/\#.*//' tools/accepted-advisories)
AUDIT_OPTIONS ?=

audit: .tools/pip-audit/.ready ## check all pins for known vulnerabilities
	@failed=0; for file in $(AUDITED); do \
		echo "$$file"; \
		.tools/pip-audit/bin/pip-audit --strict --disable-pip --require-hashes \
			--progress-spinner off $(ACCEPTED:%=--ignore-vuln %) $(AUDIT_OPTIONS) \
			--requirement $$file || failed=1; \
	done; exit $$failed

COMPILE := pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header

lock: $(UV) ## resolve all pins again, after a change in pyproject.toml or tools/*.in
	$(UV) $(COMPILE) --group dev --group layer --group api --group payment --group slack \
		--output-file tools/project.txt pyproject.toml
	$(UV) $(COMPILE) --constraint tools/project.txt --group layer \
		--output-file shared/requirements.txt
	$(UV) $(COMPILE) --constraint tools/project.txt --group api \
		--output-file functions/api/requirements.txt
	$(UV) $(COMPILE) --constraint tools/project.txt --group payment \
		--output-file functions/auto_reload/requirements.txt
	$(UV) $(COMPILE) --constraint tools/project.txt --group slack \
		--output-file functions/notify_slack/requirements.txt
	for tool in uv ministack sam localstripe bandit checkov pip-audit plots docs schemathesis; do \
		$(UV) $(COMPILE) --output-file tools/$$tool.txt tools/$$tool.in; \
	done

byte-code: ## add byte code to the build, before `sam deploy`, for a faster cold start
	@$(PYTHON) tools/byte_code.py .aws-sam/build

clean: ## stop the embedded stack and remove all that was installed or built here
	@if [ -x .venv/bin/agent-credits ]; then .venv/bin/agent-credits local down; fi
	rm -rf .venv .tools .local .aws-sam .site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps. Another interpreter, or a moved checkout, changes this file and so rebuilds them all.
.tools/interpreter: FORCE
	@mkdir -p .tools
	@$(PYTHON) tools/interpreter.py > $@.now
	@if cmp -s $@.now $@; then rm $@.now; else mv $@.now $@; fi

.tools/uv/.ready: .tools/interpreter tools/uv.txt
	@echo "Installing uv"
	@$(PYTHON) -m venv --clear .tools/uv
	@.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement tools/uv.txt
	@touch $@

$(UV): .tools/uv/.ready

.venv/.ready: .tools/uv/.ready pyproject.toml clients/python/pyproject.toml tools/project.txt
	@echo "Installing the project and what its tests need"
	@$(UV) venv --quiet --clear .venv
	@$(UV) pip sync --quiet --require-hashes --python .venv/bin/python tools/project.txt
	@$(UV) pip install --quiet --no-deps --python .venv/bin/python \
		--editable . --editable clients/python
	@touch $@

# Maven keeps its own copies, so that doing this again after `make clean` needs no network.
.tools/dynamodb-local/.ready: tools/dynamodb-local/pom.xml
	@echo "Installing DynamoDB Local"
	@rm -rf .tools/dynamodb-local
	@mvn --quiet --batch-mode --file tools/dynamodb-local/pom.xml dependency:copy-dependencies \
		-DoutputDirectory=$(CURDIR)/.tools/dynamodb-local
	@touch $@

.tools/%/.ready: .tools/uv/.ready tools/%.txt
	@echo "Installing $*"
	@$(UV) venv --quiet --clear .tools/$*
	@$(UV) pip sync --quiet --require-hashes --python .tools/$*/bin/python tools/$*.txt
	@touch $@
