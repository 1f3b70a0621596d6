# Every target sets up .venv if it is missing or older than pyproject.toml or constraints.txt.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.stamp

METHOD  ?= w1_fe
DATASET ?= cifar10
METRIC  ?= lite0
PROJECT ?= pt_flows
DATA_DIR ?=
ARGS    ?=
JOBS    ?= 2
SEEDS   ?=

LAYERS  := --config configs/cifar10/$(METHOD).yaml \
           $(if $(filter-out cifar10,$(DATASET)),--config configs/data/$(DATASET).yaml) \
           $(if $(filter-out lite0,$(METRIC)),--config configs/metrics/$(METRIC).yaml)
SEEDED  := $(if $(SEEDS),--seeds 0..$(or $(shell expr $(SEEDS) - 1 2>/dev/null),$(SEEDS)))
ROOT    := $(if $(DATA_DIR),PT_FLOWS_DATA="$(DATA_DIR)")

# A variable that a target does not take: $(call refuse,NAME,its default)
refuse   = $(if $(filter-out $(2),$($(1))),$(error $(1): expected none with $@, got $($(1)). Omit or unset it))

.DEFAULT_GOAL := help
.PHONY: help install demo train-cifar train-mnist train-imagenet test test-slow test-long lint types check smoke bench claims docs same dashboard clean

help:  ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r t d; do printf '  %-15s %s\n' "$$t" "$$d"; done
	@echo
	@echo 'Variables:'
	@echo '  METHOD    w1_fe (default), w2_fe, w2_fe_map, ode_gan, ode_gan_resnet, wgan_gp, da_ebm or improved_cd; for a CPU'
	@echo '            w1_fe_small, w2_fe_small, ode_gan_small, wgan_gp_small, sngan_small, r3gan_small,'
	@echo '            cfm_small, improved_cd_small, gradient_layers_small'
	@echo '  DATASET   of train-cifar: cifar10 (default) or shapes32, a built-in set that needs no download'
	@echo '  METRIC    of train-cifar and train-imagenet: lite0 (default, works offline) or inception (the FID of the literature;'
	@echo '            downloads weights once)'
	@echo '  DATA_DIR  folder that holds cifar-10-batches-py; default $$PT_FLOWS_DATA or data. For train-imagenet'
	@echo '            it is the folder of prepared images; default imagenet64 in the same place'
	@echo '  ARGS      any arguments of pt-flows fit: ARGS="--trainer.max_steps 2000 --ckpt_path last"'
	@echo '  PROJECT   W&B project of make dashboard, with or without its owner (default pt_flows)'
	@echo '  SEEDS     number of seeds to train side by side, for the train- targets: SEEDS=5 means the seeds 0 to 4'
	@echo '  JOBS      number of tests to run in parallel, one core each (default 2)'
	@echo '  PYTHON    interpreter that sets up .venv, 3.11 or newer (default python3)'

install: $(STAMP)  ## set up .venv

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)  ## study tuned WGAN-GP, W1-FE and W2-FE on the ring of eight, three seeds, in minutes on two CPU cores
	$(BIN)/pt-flows study benchmarks/demo.yaml $(ARGS)

train-cifar: $(STAMP)  ## train a recipe on CIFAR-10 (the full ones need a GPU); see METHOD, DATASET, METRIC, DATA_DIR, ARGS
	$(ROOT) $(BIN)/pt-flows fit $(LAYERS) $(SEEDED) $(ARGS)

train-mnist: $(STAMP)  ## train a recipe of configs/mnist; all but da_ebm_full draw digits in minutes on one CPU core
	$(call refuse,DATASET,cifar10)$(call refuse,METRIC,lite0)
	$(ROOT) $(BIN)/pt-flows fit --config configs/mnist/$(METHOD).yaml $(SEEDED) $(ARGS)

train-imagenet: $(STAMP)  ## train a recipe on ImageNet at 64 pixels, after pt-flows prepare imagenet (docs/scale.md)
	$(call refuse,DATASET,cifar10)
	$(BIN)/pt-flows fit --config configs/imagenet/$(METHOD).yaml \
	  $(if $(filter-out lite0,$(METRIC)),--config configs/metrics/$(METRIC).yaml) \
	  $(if $(DATA_DIR),--data.root "$(DATA_DIR)") $(SEEDED) $(ARGS)

test: $(STAMP)  ## run the fast tests
	$(BIN)/python -m pytest -q -n $(JOBS) $(ARGS)

test-slow: $(STAMP)  ## run the slow tests: whole commands, kills, real data, feature networks
	$(BIN)/python -m pytest -q -m slow -n $(JOBS) --dist worksteal $(ARGS)

test-long: $(STAMP)  ## run the long tests, for an hour: training to convergence, every method on images, compilation
	$(BIN)/python -m pytest -q -m long -n $(JOBS) --dist worksteal $(ARGS)

lint: $(STAMP)  ## check style and format with ruff, and the vocabulary of the prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/english.py

types: $(STAMP)  ## check types with basedpyright
	$(BIN)/basedpyright --pythonpath $(BIN)/python

check: lint types  ## run every check that trains nothing

smoke: $(STAMP)  ## train every configuration for two iterations on small data
	$(BIN)/python -m pytest -q -m 'slow or not slow' -n $(JOBS) tests/test_configs.py

bench: $(STAMP)  ## compare the speed of the Trainer with that of a bare loop, in one run
	$(BIN)/python benchmarks/speed.py $(ARGS)

claims: $(STAMP)  ## write docs/claims.md from the records of studies in benchmarks
	$(BIN)/python -m pt_flows.studies.claims benchmarks docs/claims.md

docs: $(STAMP)  ## build the documentation site into build/site; a broken link stops it
	$(BIN)/python tools/website.py build/site

same: $(STAMP)  ## train the recipes at commit REF and here, and name the first tensor that differs: make same REF=main~1
	$(BIN)/python benchmarks/same.py $(REF) $(ARGS)

dashboard: $(STAMP)  ## make or update the W&B dashboard of a project: make dashboard PROJECT=me/pt_flows
	$(BIN)/pt-flows dashboard $(PROJECT) $(ARGS)

clean:  ## remove .venv and caches; runs and data stay
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
