# `make` alone explains itself. Everything is installed below .venv, nothing elsewhere.

# The one below .venv, while it is there, else the host's.
PYTHON ?= $(or $(realpath .venv/bin/python),python3)
# Of the host's Python nothing reaches ours: neither paths nor options.
unexport $(filter PYTHON%,$(.VARIABLES))
# Nor does ONNX Runtime tell its maker what benchmarks and their servers run.
export ORT_DISABLE_TELEMETRY := 1
INSTALL = "$(PYTHON)" requirements/install.py
MODEL_STORE := $(or $(FLIP_MODEL_STORE),model_store)
# make cuts a path at blanks and colons: `clean` would remove what is at the parts.
ifneq ($(words $(subst :, ,$(MODEL_STORE))),1)
$(error MODEL_STORE=$(MODEL_STORE). Expected a path without blanks and colons)
endif
BIN := .venv/bin
AUDIT_SERVICE ?= pypi
PYTEST = $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder
PIP_AUDIT = .audit/bin/pip-audit --strict --disable-pip --progress-spinner off \
  --vulnerability-service $(AUDIT_SERVICE) $(AUDIT_ARGS)
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --custom-compile-command "make lock"
export FLIP_MODEL_STORE := $(MODEL_STORE)

# What the artifacts are made from; any newer file makes them stale.
SOURCES := $(filter-out $(addprefix export/,package.py release.py report.py sbom.py train.py widths.py),$(wildcard export/*.py handlers/*.py handlers/*.yaml handlers/*.txt)) \
  $(wildcard diagonalflip/inference/*.py) $(addprefix diagonalflip/,__init__.py errors.py message.py wire.py)
# One export per weights file that is part of the project, each in a folder named after its version.
EXPORTS := $(patsubst export/weights-%.json,$(MODEL_STORE)/%/manifest.json,$(wildcard export/weights-*.json))

# What is given to make by NAME=value, these targets get as FLIP_NAME. The service would also take
# PORT, which platforms set.
GIVEN := $(foreach each,$(.VARIABLES),$(if $(findstring command line,$(origin $(each))),$(each)))
$(foreach each,$(filter-out FLIP_% MODEL_STORE PYTHON,$(GIVEN)),\
  $(eval serve token run-image: export FLIP_$(each) = $$($(each))))
ifeq ($(origin PORT),command line)
unexport PORT
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve token test test-all export package-data train sign release verify-release report gpu-check gpu-bundle bench profile soak drill cluster-drill fuzz audit sbom \
  image image-test manifests-test lowest-test pythons-test bulk-test portability run-image lint format lock clean \
  installed installed-dev .deploy .lowest .audit .bench/servers .bench/litserve

help: ## this list
	@echo "make TARGET [SETTING=value ...]"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 25
	@echo
	@echo "Settings of serve; in the environment each has the prefix FLIP_:"
	@"$(PYTHON)" -m diagonalflip.server.settings 2> /dev/null || echo "  (listed with Python 3.11 or newer)"

serve: installed $(EXPORTS) ## install, export if needed, and serve until Ctrl-C
	@exec $(BIN)/python -m diagonalflip.server

token: installed ## print a new token for NAME, and add its digest to TOKENS_FILE
	@$(BIN)/python -m diagonalflip.server.supervisor.tokens

test: installed-dev ## install, and test what a change is likely to break, in 5 minutes
	@$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: test ## then test hosts, failures, installing, the docs' commands and the page, too
	@$(PYTEST) -m slow $(PYTEST_ARGS)

ifdef WEIGHTS
export: installed ## write and prove TorchScript, ONNX and archive (of WEIGHTS as VERSION, else of all)
	@$(BIN)/python -m export --weights "$(WEIGHTS)" --model-version "$(VERSION)" \
	  --output "$$FLIP_MODEL_STORE/$(VERSION)"
else
export: $(EXPORTS)
endif

package-data: $(EXPORTS) ## copy the exports into the package, whose wheel serves them
	@$(BIN)/python -m export.package "$$FLIP_MODEL_STORE"

train: installed-dev ## train a network of width HIDDEN that flips, as VERSION
	@$(BIN)/python -m export.train --hidden "$(or $(HIDDEN),5)" --version "$(or $(VERSION),2.0)"

sign: installed ## sign every version in the model store with SIGNING_KEY
	@$(BIN)/python -m diagonalflip.server.models.signature "$(SIGNING_KEY)" "$$FLIP_MODEL_STORE"/*/manifest.json

release: installed-dev ## run every check, then write all artifacts to release/, signed with SIGNING_KEY
	@.ci/run
	@rm -rf release
	@$(BIN)/python -m export.release release $(if $(SIGNING_KEY),--sign "$(SIGNING_KEY)")

verify-release: installed-dev ## build release/ again from a clean clone, and compare every byte
	@$(BIN)/python -m export.release release --verify $(if $(TRUSTED_KEY),--trusted "$(TRUSTED_KEY)")

report: $(EXPORTS) ## write report.html: parity report, processors, benchmark and drills on one page
	@$(BIN)/python -m export.report report.html

gpu-check: ## prove and measure everything on this host's GPU, with the torch of GPU_PYTHON (python3) if it has one
	@"$(or $(GPU_PYTHON),python3)" benchmarks/gpu_host.py $(GPU_ARGS)

gpu-bundle: installed-dev ## stage in .gpu-bundle what a GPU host with BUNDLE_PYTHON (3.12) and no network lacks
	@$(BIN)/python -m benchmarks.gpu_bundle --python "$(or $(BUNDLE_PYTHON),3.12)"

bench: installed-dev $(EXPORTS) .bench/servers .bench/litserve ## compare with FastAPI, granian, mosec and others, in 30 minutes; BENCH_ARGS=--sweep also fills the docs
	@$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)
	@$(BIN)/python -m benchmarks.client $(if $(findstring --sweep,$(BENCH_ARGS)),--save)

profile: installed-dev $(EXPORTS) ## show where the time goes, by function of the workers
	@$(BIN)/python -m benchmarks.profile $(PROFILE_ARGS)

soak: installed-dev $(EXPORTS) ## send large requests for ten minutes, and check that memory stays flat
	@$(BIN)/python -m benchmarks.soak $(SOAK_ARGS)

drill: installed-dev $(EXPORTS) ## break the service in every way, under load, in 10 minutes
	@$(BIN)/python -m tests.drills $(DRILL_ARGS)

image: ## build the container image (TARGET=cpu or gpu) with docker, podman or buildah
	@docker/build.sh

image-test: installed-dev ## build the image and test it as an operator would
	@IMAGE_TEST=1 $(BIN)/python -m pytest -s tests/image $(PYTEST_ARGS)

manifests-test: installed-dev .deploy ## check Kubernetes, KServe and compose files
	@$(BIN)/python -m pytest tests/deploy $(PYTEST_ARGS)

lowest-test: .lowest ## test client and command with the oldest packages that pyproject.toml lets in
	@.lowest/bin/python -m pytest -W ignore::ResourceWarning $(PYTEST_ARGS) tests/unit/test_client_images.py \
	  tests/unit/test_client_streams.py tests/unit/test_cli_commands.py tests/unit/test_cli_files.py

bulk-test: installed-dev ## test the example with Ray, in an environment of its own
	@$(INSTALL) .ray --project requirements/ray.txt
	@$(BIN)/python -m pytest tests/integration/test_examples.py -k "ray_data" $(PYTEST_ARGS)

# The wheel's own parts: client, command, payload forms, HTTP, and a whole service without torch.
pythons-test: ## test what needs no torch with each Python of PYTHONS (3.12 3.13)
	@for version in $(or $(PYTHONS),3.12 3.13); do \
	  echo "==> Python $$version"; \
	  PYENV_VERSION=$$version python$$version requirements/install.py .python/$$version --project requirements/pythons.txt && \
	  .python/$$version/bin/python -m pytest -q --numprocesses 3 --dist loadfile $(PYTEST_ARGS) tests/integration/test_packaged.py \
	    tests/contract/test_http_*.py \
	    $(foreach each,client_* cli_* wire coding cost decode form limits media parser picture v2,tests/unit/test_$(each).py) \
	    || exit 1; \
	done

portability: installed-dev .portability/.ready ## export, load and predict on emulated processors, in 10 minutes
	@$(BIN)/python -m tests.portability $(PORTABILITY_ARGS)

run-image: ## run the image on 127.0.0.1:8443, with TOKENS_FILE; Ctrl-C drains
	@docker/run.sh

# jinja2 2.4.1 has known vulnerabilities. If none is reported, the advisory service was not reached,
# and pip-audit would report that all is well.
audit: .audit ## check the pinned packages for known vulnerabilities (AUDIT_SERVICE=pypi or osv)
	@echo jinja2==2.4.1 > .audit/control.txt
	@$(PIP_AUDIT) --no-deps -r .audit/control.txt 2>/dev/null | grep -qE 'PYSEC|GHSA|CVE' || \
	  { echo "Nothing was audited: the advisory service ($(AUDIT_SERVICE)) cannot be reached," \
	    "or has no advisories" >&2; exit 1; }
	@for name in serve cpu; do $(PIP_AUDIT) --require-hashes -r requirements/$$name.txt || exit 1; done
	@$(PIP_AUDIT) --no-deps -r requirements/torch.txt

sbom: installed .audit ## write sbom.json: the Python packages and Java libraries that serve
	@$(BIN)/python -m export.sbom .audit/bin/cyclonedx-py sbom.json

cluster-drill: installed-dev $(EXPORTS) ## kill, cut off, freeze, update and add hosts behind a balancer (root)
	@$(BIN)/python -m tests.drills.cluster $(DRILL_ARGS)

fuzz: installed-dev ## send ten million hostile requests and streams to the decoders and the HTTP listener
	@$(BIN)/python -m tests.fuzz.fuzz_decoders --executions 5000000 $(FUZZ_ARGS)

lint: installed-dev ## ruff, mypy and codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: installed-dev ## let ruff format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: installed-dev ## pin the newest packages of requirements/*.in
	@for name in serve dev audit deploy; do \
	  $(COMPILE) --upgrade requirements/$$name.in -o requirements/$$name.txt || exit 1; \
	done
	@$(COMPILE) --upgrade --resolution lowest-direct --extra aio --extra cli \
	  pyproject.toml requirements/lowest.in -o requirements/lowest.txt
	@$(COMPILE) --constraints requirements/serve.txt --extra serve \
	  pyproject.toml -o requirements/cpu.txt
	@$(COMPILE) --extra aio --extra serve pyproject.toml requirements/pythons.in -o requirements/pythons.txt
	@$(COMPILE) --extra serve pyproject.toml requirements/ray.in -o requirements/ray.txt

# All that an export writes; versions, choices, signatures and logs of others are not ours to remove.
clean: ## remove the exports that `make export` makes again, and nothing else
	rm -f $(foreach name,manifest.json reference.json $(addprefix diagonal_flip.,mar onnx pt x4.onnx), \
	  $(foreach each,$(EXPORTS),"$(dir $(each))$(name)"))

$(MODEL_STORE)/%/manifest.json: export/weights-%.json $(SOURCES) | installed
	@echo "==> Exporting version $* to $$FLIP_MODEL_STORE/$*"
	@$(BIN)/python -m export --weights $< --model-version $* --output "$$FLIP_MODEL_STORE/$*"

# Python 3.6, as RHEL 8 has, cannot even read what would reject it.
installed:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 7) and sys.executable + " is Python " \
	  + sys.version.split()[0] + ": install Python 3.11 or newer with venv, or name one with PYTHON=" or 0)'
	@"$(PYTHON)" -m diagonalflip._processor
	@$(INSTALL) .venv --project requirements/serve.txt requirements/torch.txt

installed-dev: installed
	@$(INSTALL) .venv requirements/dev.txt

.deploy .audit .lowest: .%:
	@$(INSTALL) $@ requirements/$*.txt

.bench/servers .bench/litserve: .bench/%:
	@$(INSTALL) $@ benchmarks/peers/$*.txt

.portability/.ready: tests/portability/arm64.sh requirements/serve.txt requirements/torch.txt
	@echo "==> Making an arm64 Debian with our packages in .portability"
	@tests/portability/arm64.sh
	@touch $@
