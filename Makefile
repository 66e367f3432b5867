# make demo            train ST-JEM on the built-in digits: pictures, metrics and a checkpoint in runs/demo
# make test            run the tests
# make demo JAX=cuda13 the same on an NVIDIA GPU (driver 580 or newer); JAX=tpu on a TPU
# make test JAX=tpu-compile the tests that compile for a TPU, too, on a machine without one
PYTHON ?= python3
JAX ?= cpu
VENV := .venv
RUN := $(VENV)/bin/python
comma := ,
EXTRAS := test,speech$(if $(filter-out cpu,$(JAX)),$(comma)$(JAX))
STAMP := $(VENV)/installed-$(JAX)

.PHONY: demo test lint clean

demo: $(STAMP)
	$(RUN) -m experiments.digits_st_jem --workdir=runs/demo
	$(RUN) -m experiments.evaluate --workdir=runs/demo
	@echo "Look at runs/demo/samples/fresh_conditional.png, reliability.png and evaluation.txt"

test: $(STAMP)
	$(RUN) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(STAMP): setup.py requirements.txt
	@case "$(JAX)" in cpu|cuda13|tpu|tpu-compile) ;; *) echo "JAX=$(JAX) is not known: use cpu, cuda13, tpu or tpu-compile" >&2; exit 2;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt -e '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache
