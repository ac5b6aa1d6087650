# make help lists what there is. Everything needs Python 3.11 and make; the rest is installed into .venv
# (about 2.5 GB) by whichever target runs first, and again only when the pins below change.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS   ?= 2
BIN    := .venv/bin
PINS   := constraints.txt pyproject.toml

MODELS := sample_models
DEMO   := out/demo
PAGES  := out/pages
DIGIT  := $(MODELS)/frames/0000_7.png
AS     := --input 1x1x28x28 --color gray --labels $(MODELS)/labels.txt --samples $(MODELS)/frames_1000.npz

DEVICE := .device
SOURCE := $(shell find bnfold cli -name '*.py' -o -name '*.json' -o -name '*.html' -o -name '*.css' -o -name py.typed) README.md LICENSE $(PINS)

.DELETE_ON_ERROR:
.PHONY: help demo test test-host test-tflite test-onnx test-arm64 test-slow test-pages test-random lint bench bench-fold bench-recalibrate bench-forms bench-diagnosis bench-drift bench-monitor bench-edge docs clean distclean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

# --- what it is for --------------------------------------------------------------------------------------

demo: .venv/.ready ## convert two MNIST networks to ONNX and TFLite, and read a digit with all four files
	@echo "==> the network with BatchNorm after the sigmoid"
	$(BIN)/bnfold convert $(MODELS)/mnist_mlp/after.safetensors --model $(MODELS)/mnist_mlp/model.py:after \
	    $(AS) --to onnx,tflite -o $(DEMO) --name mnist_mlp
	@echo; echo "==> the small MobileNetV2"
	$(BIN)/bnfold convert $(MODELS)/mnist_mobilenet/mobilenet.safetensors \
	    --model $(MODELS)/mnist_mobilenet/model.py:mobilenet \
	    $(AS) --to onnx,tflite -o $(DEMO) --name mnist_mobilenet
	@echo; echo "==> $(DIGIT) through all four files"
	@for file in mnist_mlp.onnx mnist_mlp.tflite mnist_mobilenet.onnx mnist_mobilenet.tflite; do \
	    $(BIN)/bnfold run $(DEMO)/$$file $(DIGIT) || exit; \
	done

# --- the gate --------------------------------------------------------------------------------------------

test: test-host test-tflite test-onnx ## everything: on this machine, then as on two kinds of device
	@echo "==> all three parts passed"

test-host: .venv/.ready ## 1: the tests on this machine
	@echo "==> 1 of 3: the tests on this machine"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

# $(call device_tests,NAME,SUFFIX): the torch-free tests and every artifact's self-test, from the installed
# wheel. They run in a folder of their own, with a configuration of their own, so that the checkout is not
# on the path.
define device_tests
	@.venv-$(1)/bin/python -I -c 'import bnfold, bnfold_cli, importlib.util as u, sys; \
	    inside = [m.__file__.startswith(sys.prefix) for m in (bnfold, bnfold_cli)]; \
	    sys.exit(0 if all(inside) and u.find_spec("torch") is None else "not the installed wheel, or torch is here")'
	@rm -rf $(DEVICE)/$(1) && mkdir -p $(DEVICE)/$(1) && cp -R tests/device examples $(DEVICE)/$(1)
	@printf '[pytest]\naddopts = -q --strict-markers --import-mode=importlib -p no:cacheprovider\nfilterwarnings = error\nmarkers = device: needs no torch\n' > $(DEVICE)/$(1)/pytest.ini
	cd $(DEVICE)/$(1) && BNFOLD_TEST_ARTIFACTS=$(abspath $(DEVICE))/artifacts \
	    $(abspath .venv-$(1))/bin/python -P -m pytest -c pytest.ini --rootdir . device
	@for file in $(DEVICE)/artifacts/*.$(2); do .venv-$(1)/bin/bnfold run $$file --self-test || exit; done
endef

test-tflite: .venv-tflite/.wheel $(DEVICE)/artifacts/.ready ## 2: the installed wheel with tflite-runtime, without torch
	@echo "==> 2 of 3: the wheel with tflite-runtime and numpy 1, without torch"
	$(call device_tests,tflite,tflite)

test-onnx: .venv-onnx/.wheel $(DEVICE)/artifacts/.ready ## 3: the installed wheel with onnxruntime, without torch
	@echo "==> 3 of 3: the wheel with onnxruntime, without torch"
	$(call device_tests,onnx,onnx)

# Needs a Debian that has python3.11; nothing is installed. See tests/arm64/environment.py.
test-arm64: .venv-arm64/.wheel .venv-tflite/.ready $(DEVICE)/artifacts/.ready ## the installed wheel on emulated arm64, in three interpreters, against this machine (minutes)
	$(BIN)/python tests/arm64/compare.py $(DEVICE)/artifacts .venv-arm64 .venv-tflite/bin/python

test-slow: .venv/.ready ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

# The browser comes from Debian's packages and is not installed here; selenium has an environment of its own.
test-pages: .venv/.ready .venv-pages/.ready ## the HTML pages in headless Chromium, as desktop and phone
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { echo \
	    'chromium and chromedriver are missing: apt-get install --no-install-recommends chromium chromium-driver'; exit 2; }
	$(BIN)/python tests/pages/make.py $(PAGES)
	.venv-pages/bin/python tests/pages/browser.py $(PAGES)

test-random: .venv/.ready ## 2,000 random networks through the fold engine (minutes)
	BNFOLD_RANDOM_NETWORKS=2000 $(BIN)/python -m pytest tests/fold/test_random_networks.py

lint: .venv/.ready ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.ready ## what is measured, against a peer, in one run
	$(BIN)/python benchmarks/import_time.py

bench-fold: .venv/.bench ## bnfold's files against the exporters' own, for every sample architecture (30 minutes)
	$(BIN)/python benchmarks/fold.py

bench-forms: .venv/.bench .venv-tflite/.ready ## what a fold leaves over, by form, size and interpreter (15 minutes)
	$(BIN)/python benchmarks/forms.py write out/forms
	$(BIN)/python benchmarks/forms.py time out/forms
	.venv-tflite/bin/python benchmarks/forms.py time out/forms

bench-diagnosis: .venv/.ready ## every cause planted in sample models: what diagnose and audit call it (minutes)
	$(BIN)/python benchmarks/diagnosis.py

bench-recalibrate: .venv/.ready ## recalibration against the forward passes alone, and its memory (minutes)
	$(BIN)/python benchmarks/recalibrate.py

# MNIST in its own format: make bench-drift DATA=FOLDER
DATA ?=

bench-drift: .venv/.bench .venv-peers/.ready ## drift: false alarms, power, delays, and alibi-detect on the same frames (an hour; DATA=FOLDER of MNIST)
	@test -n "$(DATA)" || { echo "make bench-drift DATA=FOLDER, a folder of MNIST's four IDX files"; exit 2; }
	$(BIN)/python benchmarks/drift.py --data "$(DATA)"
	$(BIN)/python benchmarks/drift_share.py --data "$(DATA)"
	.venv-peers/bin/python benchmarks/drift_peers.py

bench-monitor: .venv/.bench ## what the monitored file costs, ResNet-18 and MobileNetV2 at 224 x 224 (minutes)
	$(BIN)/python benchmarks/monitor_cost.py

bench-edge: .venv/.bench .venv-tflite/.wheel ## what the runtime costs over the bare interpreter: frame, start, memory (minutes)
	$(BIN)/python benchmarks/edge.py write out/edge --precision fp32,int8
	$(BIN)/python benchmarks/edge.py time out/edge
	.venv-tflite/bin/python benchmarks/edge.py time out/edge

docs: .venv/.ready ## write what the documentation takes from the source: codes, rules, examples
	$(BIN)/python docs/make_errors.py
	$(BIN)/python docs/make_examples.py

# --- environments: a stamp is written when everything before it has worked ---------------------------------

.venv/.ready: $(PINS)
	@echo "==> setting up .venv: torch, the exporters and the tools, about 2.5 GB; this happens once"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bnfold needs Python 3.11: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# the peers that are measured against and not needed for anything else
.venv/.bench: .venv/.ready
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

.venv-pages/.ready: $(PINS)
	@echo "==> setting up .venv-pages: selenium"
	rm -rf .venv-pages
	$(PYTHON) -m venv .venv-pages
	.venv-pages/bin/pip install -q --disable-pip-version-check -c constraints.txt selenium
	@touch $@

# $(call device_environment,NAME,PACKAGES): the interpreter and pytest, nothing else
define device_environment
	@echo "==> setting up .venv-$(1): $(2) and pytest, without torch"
	rm -rf .venv-$(1)
	$(PYTHON) -m venv .venv-$(1)
	.venv-$(1)/bin/pip install -q --disable-pip-version-check $(2) $$(grep '^pytest==' constraints.txt)
	@touch $@
endef

.venv-tflite/.ready: $(PINS)
	$(call device_environment,tflite,tflite-runtime==2.14.0 'numpy<2')

.venv-peers/.ready: benchmarks/peers.txt
	@echo "==> setting up .venv-peers: alibi-detect with torch, about 2 GB"
	rm -rf .venv-peers
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q --disable-pip-version-check -r benchmarks/peers.txt
	@touch $@

.venv-onnx/.ready: $(PINS)
	$(call device_environment,onnx,$$(grep '^onnxruntime==' constraints.txt))

.venv-arm64/.ready: $(PINS) tests/arm64/environment.py .venv/.ready
	@echo "==> setting up .venv-arm64: Debian's arm64 Python, an emulator and three interpreters, about 500 MB"
	rm -rf .venv-arm64
	$(BIN)/python tests/arm64/environment.py .venv-arm64
	@touch $@

.venv-arm64/.wheel: .venv-arm64/.ready $(DEVICE)/wheel/.ready
	rm -rf .venv-arm64/wheel
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-index --no-warn-conflicts \
	    --target .venv-arm64/wheel $(DEVICE)/wheel/*.whl
	@touch $@

# The extra must be content with what is there: nothing else is fetched.
.venv-%/.wheel: .venv-%/.ready $(DEVICE)/wheel/.ready
	@echo "==> installing the wheel into .venv-$*"
	.venv-$*/bin/pip uninstall -q -y bnfold
	.venv-$*/bin/pip install -q --disable-pip-version-check --no-index "$$(echo $(DEVICE)/wheel/*.whl)[edge-$*]"
	@touch $@

# build/ of an earlier wheel would bring back files that are gone
$(DEVICE)/wheel/.ready: .venv/.ready $(SOURCE)
	@echo "==> building the wheel"
	rm -rf build $(DEVICE)/wheel
	$(BIN)/pip wheel -q --disable-pip-version-check --no-deps -w $(DEVICE)/wheel .
	@touch $@

$(DEVICE)/artifacts/.ready: .venv/.ready $(SOURCE) $(wildcard tests/device/*.py)
	@echo "==> making the artifacts for the device tests"
	rm -rf $(DEVICE)/artifacts
	$(BIN)/python tests/device/artifacts.py $(DEVICE)/artifacts
	@touch $@

clean: ## what was made, except the environments
	rm -rf out build dist $(DEVICE) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

distclean: clean ## the environments too
	rm -rf .venv .venv-tflite .venv-onnx .venv-pages .venv-peers .venv-arm64
