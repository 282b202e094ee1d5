# Everything runs in .venv, made and filled on first use: Python 3.11, pip and make are enough.

PYTHON        ?= python3
KERAS_BACKEND ?= tensorflow
BACKENDS      ?= tensorflow jax
ARGS          ?=
KERAS         ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip
UV   := $(shell command -v uv 2>/dev/null)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TF_CPP_MIN_LOG_LEVEL := 2

.PHONY: help demo test lint bench docs clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:  ## List these commands.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s%s\n", $$1, $$2 }' Makefile

demo: $(VENV)/$(KERAS_BACKEND).stamp $(VENV)/demo.stamp  ## See it work; KERAS_BACKEND=jax for another backend.
	KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python -m keras_optkit $(ARGS)

test: $(BACKENDS:%=$(VENV)/%.stamp) $(VENV)/test.stamp $(VENV)/small.stamp  ## Run the tests; BACKENDS="jax torch", ARGS="-k radam -x", KERAS=3.12.
	$(if $(KERAS),$(INSTALL) 'keras==$(KERAS).*')
	$(BIN)/python scripts/run_tests.py $(BACKENDS) -- $(ARGS)

lint: $(VENV)/dev.stamp  ## Check format, style, types and the floors.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/python scripts/readme_blocks.py build/readme
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/$(KERAS_BACKEND).stamp $(VENV)/test.stamp  ## Measure speed; KERAS_BACKEND=jax for another backend.
	KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python benchmarks/optimizer_step.py $(ARGS)

docs: $(VENV)/docs.stamp  ## Build the site, into build/site.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open build/site/index.html."

clean:  ## Remove .venv, builds and caches.
	rm -rf $(VENV) build dist .benchmarks .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp stands for an installed set of packages: an extra of pyproject.toml, unless named here.
SYSTEM := $(shell uname -s -m | tr ' ' -)
packages-tensorflow := '$(if $(filter Linux-x86_64,$(SYSTEM)),tensorflow-cpu,tensorflow)>=2.21'
# TF-MOT and tf_keras ask for the tensorflow with CUDA; what they need of it is there already.
packages-small      := --no-deps 'tensorflow-model-optimization>=0.8.1' 'tf_keras>=2.21' \
                       dm-tree attrs
packages-torch      := 'torch==2.13.0' schedulefree

INSTALL = $(if $(UV),uv pip install --python $(BIN)/python,$(PIP) install)
# Only pip heeds PIP_FIND_LINKS, which may offer a torch without CUDA.
$(VENV)/torch.stamp: INSTALL = $(PIP) install

$(VENV)/%.stamp: pyproject.toml | $(VENV)/pyvenv.cfg
	$(INSTALL) $(or $(packages-$*),--editable '.[$*]')
	@touch $@

$(VENV)/pyvenv.cfg:
	$(if $(UV),uv venv --seed --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))
