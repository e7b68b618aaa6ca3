# What anyone would guess; `make` alone lists it.
.DEFAULT_GOAL := help
TOOL := go tool -modfile=tools/go.mod

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

.PHONY: run
run: ## Serve on http://localhost:8080, with data in ./data
	go run .

.PHONY: test
test: ## Everything there is to test, with what it needs installed or started; arguments for go test in ARGS
	scripts/prepare-tests
	$(TOOL) gotestsum --format pkgname-and-test-fails --hide-summary=skipped -- -race -timeout 25m $(ARGS) ./...

.PHONY: leaks
leaks: ## What a hundred thousand subscriptions leave behind; without the race detector, with which there are fewer
	$(TOOL) gotestsum --format pkgname-and-test-fails -- -run '^TestNothing(IsLeftOf(Operations|Sockets)|StaysOf)' ./wire ./feed ./graph

.PHONY: check
check: gen-check lint test leaks ## Exactly what CI runs

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
lint: ## Look for what reviewers should not have to
	$(TOOL) golangci-lint run

.PHONY: bench
bench: ## Measure, and print ratios; takes about twenty minutes
	go run ./bench $(ARGS)

.PHONY: verify
verify: ## Prove the promise on a cluster that breaks, for a minute; arguments for parley verify in ARGS
	scripts/verify $(ARGS)

.PHONY: fuzz
fuzz: ## Fuzz everything that reads bytes from outside, 20 seconds each
	scripts/fuzz 20s

.PHONY: mutants
mutants: ## Break the code on purpose, and see which tests notice; arguments in ARGS
	go run ./internal/mutants $(ARGS)
