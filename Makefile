# `make` without a target lists the targets.
.DEFAULT_GOAL := help
TOOL := go tool -modfile=tools/go.mod

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

.PHONY: run
run: ## Serve on http://localhost:8080, with data in ./data
	go run .

.PHONY: test
test: ## Run all tests, and install or start what they need; arguments for go test in ARGS
	scripts/prepare-tests
	$(TOOL) gotestsum --format pkgname-and-test-fails --hide-summary=skipped -- -race -timeout 25m $(ARGS) ./...

.PHONY: leaks
leaks: ## Test that a hundred thousand subscriptions leave nothing behind; without the race detector
	$(TOOL) gotestsum --format pkgname-and-test-fails -- -run '^TestNothing(IsLeftOf(Operations|Sockets)|StaysOf)|LeaveNothingBehind$$' ./wire ./feed ./live ./graph

.PHONY: check
check: gen-check lint test leaks ## Run exactly what CI runs

.PHONY: gen
gen: ## Generate graph/ from schema.graphqls
	go tool gqlgen

.PHONY: gen-check
gen-check: ## Fail when generated code or go.mod is stale
	scripts/check-generated

.PHONY: deps
deps: ## List the dependencies that have a newer version; changes nothing
	scripts/outdated

.PHONY: fmt
fmt: ## Format the code
	$(TOOL) golangci-lint fmt

.PHONY: lint
lint: ## Run the linters, and look for what a merge left behind
	$(TOOL) golangci-lint run
	! git grep -nE '^(<<<<<<<|>>>>>>>)( |$$)'

.PHONY: bench
bench: ## Measure, and print ratios; takes about twenty minutes
	go run ./bench $(ARGS)

.PHONY: verify
verify: ## Verify a cluster with faults for a minute; arguments for parley verify in ARGS
	scripts/verify $(ARGS)

.PHONY: fuzz
fuzz: ## Run every fuzz test for 20 seconds
	scripts/fuzz 20s

.PHONY: mutants
mutants: ## Inject faults into the code, and check that tests fail; arguments in ARGS, such as -list
	go run ./internal/mutants $(ARGS)
