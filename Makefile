# The targets that README.md and docs/ name. Everything is installed into .venv, whatever other environment is active.
PYTHON ?= python3
BIN := .venv/bin
WORKERS := --numprocesses auto --dist loadfile  # of pytest; a file's tests share fixtures
export HF_HUB_OFFLINE ?= 1
unexport PYTHONDONTWRITEBYTECODE  # many images set it; without bytecode each start compiles torch and transformers anew, for seconds

.PHONY: help demo serve test lint check fuzz docs format requirements synth rehearse wheel clean

help:            ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

demo: .venv/installed            ## build a catalogue, train, embed, index, search: the whole path in minutes
	$(BIN)/gavel demo

serve: .venv/installed            ## a search page, and the API, on http://127.0.0.1:8000
	$(BIN)/gavel serve

test: .venv/installed-dev            ## every test, against a real OpenSearch node
	@$(PYTHON) gavel/prerequisites.py java
	$(BIN)/pytest $(WORKERS)

lint: .venv/installed-dev            ## style, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint            ## lint, and the unit tests
	$(BIN)/pytest $(WORKERS) tests/unit tests/architecture

fuzz: .venv/installed-dev            ## 5,000 requests made from the API's own description
	GAVEL_FUZZ_CASES=5000 $(BIN)/pytest tests/e2e/test_described_api.py --timeout 3600 -s

docs: .venv/installed-docs            ## the documentation as a site, into site/; nothing is fetched
	mkdir -p build/docs
	$(BIN)/python -m gavel.web.api_reference > build/docs/http-api.md
	$(BIN)/zensical build --strict --clean
	$(BIN)/pytest tests/architecture/check_docs_site.py

format: .venv/installed-dev            ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: .venv/installed            ## pin anew what pyproject.toml asks for
	$(BIN)/uv pip compile -q pyproject.toml --universal --upgrade --no-annotate --no-header -o requirements.txt
	$(BIN)/uv pip compile -q pyproject.toml --universal --upgrade --no-annotate --no-header --extra dev --extra deploy --extra aws --extra otel -c requirements.txt -o requirements-dev.txt
	$(BIN)/uv pip compile -q pyproject.toml --universal --upgrade --no-annotate --no-header --extra docs -c requirements.txt -c requirements-dev.txt -o requirements-docs.txt

synth: .venv/installed-dev node_modules/.bin/cdk            ## CloudFormation templates of both stages into cdk.out; no account is asked
	for stage in dev prod; do node_modules/.bin/cdk synth --quiet --app "$(BIN)/python app.py" -c stage=$$stage -o cdk.out/$$stage || exit 1; done

rehearse: .venv/installed-dev node_modules/.bin/cdk            ## deploy both stages into an emulated AWS here, run a night, search
	@$(PYTHON) gavel/prerequisites.py java
	$(BIN)/python -m gavel.rehearsal

wheel: .venv/installed-dev            ## the package into dist/, with page, prices and the templates of both stages; needs Node.js
	$(BIN)/python -m gavel.cost.stage_templates
	$(BIN)/uv build --wheel --out-dir dist

node_modules/.bin/cdk: package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

clean:            ## remove .gavel, .venv and the built documentation
	rm -rf .gavel .venv build/docs site

.venv/bin/uv:
	@$(PYTHON) gavel/prerequisites.py python disk
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv

.venv/installed: requirements.txt pyproject.toml | .venv/bin/uv
	$(BIN)/uv pip install --python $(BIN)/python -r requirements.txt -e .
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/uv pip install --python $(BIN)/python -r requirements-dev.txt
	@touch $@

.venv/installed-docs: requirements-docs.txt .venv/installed-dev
	$(BIN)/uv pip install --python $(BIN)/python -r requirements-docs.txt
	@touch $@
