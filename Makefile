# dspool: `make help` lists what there is.
SHELL := /bin/bash
VERSION ?= $(shell scripts/version)
STATE_DIR ?= /var/lib/dspool
export PATH := $(CURDIR)/bin:$(PATH)

.PHONY: help build demo test test-engines test-cgroup2 unit bench check version deps clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: deps bin/runc ## Build bin/dspool and the pinned bin/runc
	@mkdir -p bin
	CGO_ENABLED=0 scripts/go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/dspool ./cmd/dspool

# runc without seccomp would start machines without its protection, so the tag is not optional.
bin/runc: go.mod | deps
	@mkdir -p bin
	CGO_ENABLED=1 go build -trimpath -tags seccomp -ldflags '-s -w' -o bin/runc github.com/opencontainers/runc
	@touch bin/runc

deps:
	@scripts/deps build run

demo: build ## Run a real job on a pool that stands at zero, then keep serving (EXIT=1 ends instead)
	@STATE_DIR=$(STATE_DIR) EXIT=$(EXIT) scripts/demo

test: build ## Pass every test: unit, store, conformance, whole system, end to end on real machines
	@scripts/deps test
	scripts/test

test-engines: build ## Pass the tests that need minutes or an engine of their own, such as an emulated computer
	@scripts/deps cgroup2
	scripts/test-engines

test-cgroup2: build ## Pass the tests on an emulated computer with only cgroup v2, the provider's own among them
	@scripts/deps cgroup2
	DSPOOL_TEST_CGROUP2=all scripts/go test -count=1 -v -timeout 20m ./e2e/cgroup2

unit: ## Pass the tests that need neither root nor machines (under a minute)
	scripts/go test -short ./...

check: ## Format and vet; go.mod says what is used
	@test -z "$$(gofmt -l . | tee -a /dev/stderr)"
	scripts/go vet ./...
	go mod tidy -diff

version: ## Print the version that a build has
	@scripts/version

bench: build ## Measure against named peers in the same run
	@scripts/deps bench
	bench/run

clean: ## Remove what was built
	rm -rf bin build
