# Everything a developer or CI runs. `make` alone explains.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Tools, pinned; `make tools` builds them into .tools/bin.
BUF_VERSION           := v1.75.0
PROTOC_GEN_GO_VERSION := v1.36.12
VTPROTO_VERSION       := v0.6.1-0.20240319094008-0393e58bdf10
GOLANGCI_VERSION      := v2.15.0
TOOLS := $(CURDIR)/.tools/bin

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# The race detector needs a C compiler. Without one the tests still run; CI insists with RACE=-race.
RACE ?= $(if $(shell command -v "$$(go env CC)"),-race)
FUZZTIME  ?= 30s
BENCHTIME ?= 1x

.PHONY: help
help: ## Show this list.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Build, then run everything in one process, with data in ./halley-data.
	@exec ./halley serve

.PHONY: build
build: ## Build ./halley, a static binary.
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o halley ./cmd/halley

.PHONY: image
image: build ## Build the container image IMAGE (halley): the static binary, from scratch.
	@context="$$(mktemp -d)"; trap 'rm -rf "$$context"' EXIT; \
	cp halley "$$context/"; mkdir -m 0700 "$$context/data"; \
	docker build -f deploy/Dockerfile -t $(or $(IMAGE),halley) "$$context"

# The simulation runs without the race detector, which its false time crashed once (go1.26: a shadow stack of -1 frames below
# time.goFunc). What it simulates has race tests of its own.
.PHONY: test
test: ## Run all tests that need nothing outside the process.
	@[ -n "$(RACE)" ] || echo "no C compiler: the tests run without the race detector"
	go test -shuffle=on -timeout 10m ./benchmarks/simulation
	go test $(RACE) -shuffle=on -timeout 10m $$(go list ./... | grep -v /benchmarks/simulation)

.PHONY: simulate
simulate: ## Run the write path and history under SIM_SEEDS (2000) seeds of faults in false time; SIM_SEED= repeats from one.
	SIM_SEEDS="$${SIM_SEEDS:-2000}" go test -count=1 -timeout 60m -v -run TestPromisesHoldUnderSeededFaults ./benchmarks/simulation

.PHONY: mutants
mutants: ## Break the write path in one way after another, and see that the simulation finds each out.
	SIM_MUTANTS=all go test -count=1 -timeout 60m -v -run TestMutantsAreCaught ./benchmarks/simulation

.PHONY: integration
integration: build ## Run the tests on real services; installs and starts them. A skipped test is a failure.
	deploy/local/install.sh
	@log="$$(mktemp)"; trap 'rm -f "$$log"' EXIT; \
	go test -tags integration -count=1 -timeout 25m -v ./deploy/integration 2>&1 | tee "$$log"; \
	if grep -E '^ *--- SKIP|no tests to run|no test files' "$$log"; then echo "a skipped test is a failure"; exit 1; fi

.PHONY: power
power: ## Cut the power of a virtual machine CUTS (6) times, and look for what was acknowledged; SEED=n.
	deploy/vm/vm.sh fetch
	go run ./benchmarks/power -seed $(or $(SEED),0) -cuts $(or $(CUTS),6) -only "$(ONLY)"

# What `make chaos` hurts, and how: SEED=0 takes the date; FAULTS are patterns with commas between, empty is all kinds.
SEED     ?= 0
MINUTES  ?= 3
FAULTS   ?=
TOPOLOGY ?= tiers

.PHONY: chaos
chaos: build ## Hurt a running Halley for MINUTES (3), by a plan from SEED, and judge every promise; TOPOLOGY=serve|tiers.
	@[ "$(TOPOLOGY)" != tiers ] || deploy/local/install.sh nats redis cassandra
	go run ./benchmarks/chaos -binary ./halley -seed $(SEED) -minutes $(MINUTES) -faults '$(FAULTS)' -topology $(TOPOLOGY)

.PHONY: chaos-short
chaos-short: build ## The same with few people, on serve and then on the tiers, for about a minute each; TOPOLOGY=serve|tiers is one of them.
	@topologies="$(if $(filter-out file,$(origin TOPOLOGY)),$(TOPOLOGY),serve tiers)"; \
	[ "$$topologies" = serve ] || deploy/local/install.sh nats redis cassandra; \
	for topology in $$topologies; do \
		go run ./benchmarks/chaos -binary ./halley -seed $(SEED) -minutes 0.9 -faults '$(FAULTS)' -topology $$topology -short; \
	done

.PHONY: chaos-mutants
chaos-mutants: ## Break the product in one way after another, and see that chaos finds each out within SEEDS (20); MUTANT= is one.
	deploy/local/install.sh nats redis cassandra
	go run ./benchmarks/chaos -mutants '$(or $(MUTANT),all)' -seeds $(or $(SEEDS),20)

# What `make million` does: COMETS=0 is as many as the descriptors of a process demand; STEPS, with commas between, can be broadcast too, which
# is better a run of its own, or be one, which is one comet in a virtual machine and stands alone; MILLION_FLAGS are further flags of benchmarks/million.
CONNECTIONS ?= 1000000
COMETS      ?= 0
STEPS       ?= flat,memory,p2p,idle,storm

.PHONY: million
million: build ## Hold CONNECTIONS (1000000) connections in COMETS comets of one cluster on this machine, and measure STEPS; needs root.
	deploy/local/install.sh nats redis cassandra
	@[ "$(STEPS)" != one ] || deploy/vm/vm.sh fetch
	go build -trimpath -o .tools/million ./benchmarks/million
	exec .tools/million -binary ./halley -connections $(CONNECTIONS) -comets $(COMETS) -steps '$(STEPS)' $(MILLION_FLAGS)

.PHONY: costs
costs: ## Measure on this machine what `halley plan` reckons with, and write it to a file for its --constants; needs root.
	$(MAKE) million CONNECTIONS=10000 STEPS=costs

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s).
	@grep -roE --include='*_test.go' --exclude-dir='.?*' '^func Fuzz[A-Za-z0-9_]+' . | while IFS=: read -r file func; do \
		echo "$$(dirname "$$file") $${func#func }"; \
		go test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null; \
	done

.PHONY: autobahn
autobahn: ## Run Autobahn's cases of RFC 6455 against the WebSocket transport; installs what it needs.
	deploy/local/autobahn.sh

.PHONY: bench
bench: ## Run every Go benchmark for BENCHTIME (1x: do they still run?).
	go test -run '^$$' -bench . -benchtime $(BENCHTIME) -benchmem ./...

.PHONY: bench-peers
bench-peers: build ## Measure Halley beside NATS, centrifuge, mosquitto and ejabberd; PEERS='halley,nats*' SCENARIOS='idle-*' SHORT=1.
	go build -o $(TOOLS)/peers ./benchmarks/peers
	$(TOOLS)/peers -binary halley -peers '$(PEERS)' -scenarios '$(SCENARIOS)' \
		$(if $(SHORT),-divide 10 -during 1s -out '') \
		-command "make bench-peers$(if $(PEERS), PEERS='$(PEERS)')$(if $(SCENARIOS), SCENARIOS='$(SCENARIOS)')$(if $(SHORT), SHORT=1)"

.PHONY: check
check: lint check-generated check-protocol ## Lint, and see that generated code, schema and go.mod are in order.
	go mod tidy -diff
	cd benchmarks/peers/centrifuge && go mod tidy -diff && go vet ./...

.PHONY: lint
lint: tools-lint ## Run golangci-lint with .golangci.yml.
	$(TOOLS)/golangci-lint run

.PHONY: fmt
fmt: tools-protocol ## Format the Go and protobuf sources.
	gofmt -w cmd comet logic job pkg protocol deploy benchmarks *.go
	$(TOOLS)/buf format -w protocol

.PHONY: generate
generate: tools-protocol ## Generate code from the protobuf schema.
	cd protocol && $(TOOLS)/buf generate

.PHONY: check-generated
check-generated: tools-protocol ## See that the committed generated code is what `make generate` makes.
	@tmp="$$(mktemp -d)"; trap 'rm -rf "$$tmp"' EXIT; \
	(cd protocol && $(TOOLS)/buf generate -o "$$tmp"); \
	diff -r --exclude='*.proto' protocol/halley "$$tmp/halley" || { echo "run: make generate"; exit 1; }

.PHONY: check-protocol
check-protocol: tools-protocol ## Lint the schema, and compare it with the last released one.
	$(TOOLS)/buf lint protocol
	$(TOOLS)/buf breaking protocol --against protocol/released.binpb

.PHONY: release-schema
release-schema: tools-protocol ## Make today's schema the one that later ones must not break.
	$(TOOLS)/buf build protocol --exclude-source-info -o protocol/released.binpb

.PHONY: cluster
cluster: build ## Run a whole cluster on this machine: real services, two nodes of each tier, HAProxy in front.
	deploy/local/cluster.sh up

.PHONY: cluster-down
cluster-down: ## Stop what `make cluster` started and delete its data.
	deploy/local/cluster.sh down

.PHONY: tools
tools: tools-protocol tools-lint ## Install the pinned tools into .tools/bin.

# $(call tool,NAME,PACKAGE,VERSION): installs a tool unless that very version is there.
define tool
	@go version -m $(TOOLS)/$(1) 2>/dev/null | grep -qE '^\s+mod\s+\S+\s+$(subst .,\.,$(3))\s' || \
		{ echo "installing $(1) $(3)"; GOFLAGS= CGO_ENABLED=0 GOBIN=$(TOOLS) go install $(2)@$(3); }
endef

.PHONY: tools-protocol
tools-protocol:
	$(call tool,buf,github.com/bufbuild/buf/cmd/buf,$(BUF_VERSION))
	$(call tool,protoc-gen-go,google.golang.org/protobuf/cmd/protoc-gen-go,$(PROTOC_GEN_GO_VERSION))
	$(call tool,protoc-gen-go-vtproto,github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto,$(VTPROTO_VERSION))

.PHONY: tools-lint
tools-lint:
	$(call tool,golangci-lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(GOLANGCI_VERSION))
