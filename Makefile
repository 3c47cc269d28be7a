# Three commands are all there is to know: quickstart, test, report.
# Each installs what it needs (Debian, as root).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOLS := $(CURDIR)/target/tools
CACHE := $(CURDIR)/target/cache
SKYSAIL := $(CURDIR)/target/release/skysail
UP_FLAGS := --cache-dir $(CACHE) --kubeconfig $(CURDIR)/kubeconfig
export PATH := $(TOOLS)/bin:$(HOME)/.cargo/bin:$(PATH)

.PHONY: help quickstart down test test-faults test-vm unit e2e report generate lint deps test-deps build

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: build ## Build Skysail and make manifests/quickstart real on this machine
	@$(SKYSAIL) up $(UP_FLAGS) -f manifests/quickstart --prove

down: ## Remove every trace of the quickstart
	@if [ -x $(SKYSAIL) ]; then $(SKYSAIL) down $(UP_FLAGS); else echo "nothing was built, so nothing is up"; fi

build: deps
	@cargo build --release --locked -p skysail

test: test-deps ## Run all tests
	@cargo test --workspace --locked
	@$(MAKE) --no-print-directory build
	@$(MAKE) --no-print-directory e2e

e2e: ## End-to-end tests on real hosts
	@SKYSAIL=$(SKYSAIL) SKYSAIL_CACHE=$(CACHE) cargo test -p skysail-e2e --features root --locked -- --test-threads=1

test-faults: test-deps build ## Every fault at every step of a move; make test does a few (about an hour)
	@SKYSAIL_TEST_FAULTS=1 SKYSAIL=$(SKYSAIL) SKYSAIL_CACHE=$(CACHE) cargo test -p skysail-e2e --features root --test migration --locked

test-vm: deps ## Test driver qemu with real virtual machines (slow where they are emulated)
	@e2e/setup-vm
	@SKYSAIL_TEST_VM=1 SKYSAIL_CACHE=$(CACHE) cargo test -p skysail-clouds --test conformance --locked qemu

report: build ## Measure; ONLY=spine|clouds|migration|placement or spine.start and the like for a part
	@cargo build --release --locked -p skysail-e2e --bins
	@SKYSAIL=$(SKYSAIL) SKYSAIL_CACHE=$(CACHE) cargo run --release --locked -p skysail-e2e --bin report -- $(ONLY)

generate: ## Write what is generated from the Rust types (CRDs, JSON Schemas)
	@cargo run -q -p skysail-schemas --bin crdgen -- charts/skysail/crds schemas/json

lint: ## Formatting and lints (licences are a test)
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --features skysail-e2e/root --locked -- -D warnings

deps: ## Install what building and running need
	@e2e/setup $(TOOLS)

test-deps: ## Install what testing needs too
	@e2e/setup $(TOOLS) test
