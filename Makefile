# make demo, make test: each builds everything into $(VENV) first, from a fresh clone, again and again.
# Variables: VENV (where the virtual environment goes), TORCH (the torch requirement),
# PYTHON (the interpreter that makes it).
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --disable-pip-version-check --quiet

.PHONY: help build demo test test-fallbacks test-versions lint format bench gpu-check clean

help:
	@echo "make demo    train a grapheme-to-phoneme model on the CMU dictionary (minutes)"
	@echo "make test    build and run the tests"
	@echo "make test-versions  build and test with each interpreter of PYTHONS, loading each other's library"
	@echo "make test-fallbacks  run them without the kernels: switched off, and not built"
	@echo "make lint    ruff, mypy and clang-format"
	@echo "make format  rewrite the sources the way make lint wants them"
	@echo "make bench   run the benchmarks and rebuild the tables of README.md and docs/ from them"
	@echo "make gpu-check  on a machine with a GPU: parity, sanitizers, benchmarks, into OUT"

# torch first: the extension is compiled against the torch that it will run with.
$(BIN)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) "setuptools>=77" wheel "pybind11>=2.13" ninja
	$(PIP) --no-build-isolation --editable ".[test,lint]"
	touch $@

build: $(BIN)/.installed
	$(BIN)/python setup.py --quiet build_ext --inplace

# The demo needs no CUDA library where there is no GPU, and compiling one takes a minute or two.
demo: export FASTCHAR_CUDA ?= $(if $(shell command -v nvidia-smi),1,0)
demo: build
	$(BIN)/python -m fastchar.demo

test: build
	$(BIN)/python -m pytest

# PYTHONS: interpreters, the first with torch and the test tools beside it; HEADERS: unpacked torch
# wheels of versions that this machine can't run.
PYTHONS ?= $(BIN)/python
test-versions: build
	$(BIN)/python tests/versions.py $(PYTHONS) $(addprefix --headers=,$(HEADERS))

test-fallbacks: build
	FASTCHAR_BACKEND=reference $(BIN)/python -m pytest
	PYTHONPATH=$(CURDIR)/tests/without_extension $(BIN)/python -m pytest

CPP = $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/emu/*.h' 'tests/emu/*.cpp')

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(BIN)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

bench: build
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.report

# Downloads and installs nothing: it runs in the first Python whose torch sees a GPU, $(VENV)'s if
# that is one (a `make build` without a network leaves one without torch).
gpu-check:
	@for python in $(BIN)/python $(PYTHON) python; do \
	  if $$python -c 'import torch; raise SystemExit(not torch.cuda.is_available())' 2>/dev/null; \
	  then exec $$python -m benchmarks.gpu.check; fi; \
	done; \
	echo "gpu-check: no torch that sees a GPU in $(BIN)/python, $(PYTHON) or python;" \
	  "make gpu-check PYTHON=... names another" >&2; exit 2

clean:
	rm -rf build dist fastchar/*.so *.egg-info
