# Set-up is part of every target: `make demo` and `make test` work on a fresh machine.
# PYTHON=python3.11 chooses the interpreter, PIP_ARGS=... goes to every pip install (for example
# the index of PyTorch's CPU builds, which saves gigabytes of CUDA packages).
PYTHON ?= python3
PIP_ARGS ?=
VENV ?= .venv
TFLITE_VENV ?= .venv-tflite-runtime
JOBS ?= 2
BIN := $(VENV)/bin
SRC := ndtool training export firmware_templates
C_SOURCES := $(addprefix firmware_templates/,runtime tools projects/cortex-m-qemu/board)
CORE := demo-packages.stamp
ALL := all-packages.stamp
APT := DEBIAN_FRONTEND=noninteractive apt-get
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
# Idle OpenMP threads must not spin: on a shared machine that costs 5 to 150 times (docs).
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help demo test test-fast lint typecheck fix docs test-tflite-runtime wheel-test clean
.PHONY: bench-step bench-engine bench-costs prove-resume prove-engine fuzz

help:
	@echo "make demo       the whole chain on embedded digits, set-up included"
	@echo "make test       lint, types and all tests, set-up included"
	@echo "make test-fast  lint, types and the quick tests"
	@echo "make fix        format the code;  make docs  rewrite the printed pages of docs/"
	@echo "make wheel-test the chain from an installed wheel, outside the clone"
	@echo "make prove-resume  kill -9 at ten random moments of training, resume, compare bits"
	@echo "make prove-engine  every tensor of real networks, host and QEMU cores, against tflite_micro"
	@echo "make fuzz       crafted .tflite files into the reader for SECONDS=3600 of CPU time"
	@echo "make bench-step the NetDistiller step against the two plain passes"
	@echo "make bench-engine  instructions, arena, flash and stack of the C engine on four cores"
	@echo "make bench-costs   measure again what every kernel costs on every core (costs.toml)"

demo: $(VENV)/$(CORE) compilers
	$(BIN)/ndtool run --data digits

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ndtool needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || $(MAKE) --no-print-directory apt PKG=python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/$(CORE): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[train,export,verify]'
	@touch $@

$(VENV)/$(ALL): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[all,dev]'
	@touch $@ $(VENV)/$(CORE)

# A Debian package: installed when we may, else the line to type. Never sudo.
.PHONY: apt compilers
apt:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(APT) install -y -q --no-install-recommends $(PKG) >/dev/null 2>&1 || \
		{ $(APT) update -q >/dev/null && $(APT) install -y -q --no-install-recommends $(PKG) >/dev/null; }; \
	else echo "missing: apt-get install --no-install-recommends $(PKG)"; fi

compilers:
	@command -v gcc >/dev/null && command -v g++ >/dev/null || $(MAKE) --no-print-directory apt PKG="gcc g++ libc6-dev"

# For the C engine on other cores; RISC-V only compiles and runs the kernels in a test.
CROSS := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm cmake gcc-riscv64-unknown-elf qemu-system-misc
.PHONY: cross
cross: compilers
	@command -v arm-none-eabi-gcc >/dev/null && command -v qemu-system-arm >/dev/null && \
		command -v cmake >/dev/null && command -v riscv64-unknown-elf-gcc >/dev/null && \
		command -v qemu-system-riscv32 >/dev/null || \
		$(MAKE) --no-print-directory apt PKG="$(CROSS)"

test: $(VENV)/$(ALL) cross lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal
	$(MAKE) --no-print-directory test-tflite-runtime

test-fast: $(VENV)/$(ALL) cross lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

# Templates (.j2) are C only once they are filled in: tests/firmware_templates hold what comes out
# against .clang-format.
lint: $(VENV)/$(ALL) typecheck
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror $(wildcard $(addsuffix /*.[ch],$(C_SOURCES)))

# mypy cannot follow the editable install's import hook and would skip three quarters of the code
# without a word: it is given links laid out as the import names, and the file count is checked.
typecheck: $(VENV)/$(ALL)
	@rm -rf build/typecheck && mkdir -p build/typecheck/ndtool
	@ln -s $(CURDIR)/ndtool/* $(CURDIR)/training $(CURDIR)/export $(CURDIR)/firmware_templates build/typecheck/ndtool/
	@MYPYPATH=build/typecheck $(BIN)/mypy --no-namespace-packages -p ndtool > build/mypy.log; rc=$$?; cat build/mypy.log; exit $$rc
	@n=$$(find $(SRC) -name '*.py' | wc -l); grep -q "in $$n source files" build/mypy.log || \
		{ echo "mypy did not see all $$n files"; exit 1; }

fix: $(VENV)/$(ALL)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/$(ALL)
	$(BIN)/python tools/make_docs.py

# tflite-runtime is compiled against numpy 1 and exists up to Python 3.11 only: its own environment.
test-tflite-runtime: $(VENV)/$(ALL)
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		PYTHON=$(BIN)/python PIP_ARGS="$(PIP_ARGS)" sh tools/test_tflite_runtime.sh $(TFLITE_VENV); \
	else echo "skipped: tflite-runtime has no wheel for this Python (3.11 is the last)"; fi

wheel-test: $(VENV)/$(ALL)
	PYTHON=$(PYTHON) PIP_ARGS="$(PIP_ARGS)" BUILD="$(CURDIR)/$(BIN)/python -m build" sh tools/test_wheel.sh

bench-step: $(VENV)/$(ALL)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/train_step.py

bench-engine: $(VENV)/$(ALL) cross
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/engine.py

bench-costs: $(VENV)/$(ALL) cross
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kernel_costs.py

clean:
	rm -rf build dist runs .mypy_cache .ruff_cache .pytest_cache .hypothesis

prove-resume: $(VENV)/$(ALL)
	$(BIN)/python tools/prove_resume.py

prove-engine: $(VENV)/$(ALL) cross
	OMP_NUM_THREADS=1 $(BIN)/python tools/prove_engine.py

SECONDS ?= 3600
fuzz: $(VENV)/$(ALL)
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz_reader.py $(wildcard ../shared/models/*.tflite) --seconds $(SECONDS)
