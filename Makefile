# What a newcomer types. `make demo` and `make test` set up the machine first where that is needed.

VENV := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-region test fuzz lint format generate clean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install missing system packages (as root) and .venv with locked dependencies
	@tools/setup.sh

demo: setup ## two regions with a real Neutron each, one network over both, packets: DEMO='--keep' leaves it up
	@$(VENV)/dragonflow demo $(DEMO)

demo-region: setup ## one region with a real Neutron and three chassis, two tenants, packets
	@$(VENV)/dragonflow demo-region $(DEMO)

test: lint ## everything CI checks; TESTS='-k lab' passes options to pytest
	@tools/test.sh $(TESTS)

fuzz: setup ## each fuzzer for SECONDS (60), with new seeds; FUZZ='-k rows' chooses among them
	@DRAGONFLOW_FUZZ_SECONDS=$(or $(SECONDS),60) $(VENV)/pytest tests/fuzz -rP -n 2 --timeout=0 $(FUZZ)

lint: setup ## style and types
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check
	@$(VENV)/mypy

format: setup ## let ruff rewrite what it can
	@$(VENV)/ruff check --fix
	@$(VENV)/ruff format

generate: setup ## write the generated files anew: the sample configuration
	@$(VENV)/oslo-config-generator --config-file etc/dragonflow/config-generator.conf

clean: ## remove the virtual environment and caches
	rm -rf .venv .uv build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
