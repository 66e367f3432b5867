# make demo            train ST-JEM on the built-in digits: pictures, metrics and a checkpoint in runs/demo
# make test            run the tests, but for slow ones
# make test-slow       run the slow ones: whole studies, evaluations, several processes, faults
# make test-oldest     a part of them on the oldest JAX and Flax that setup.py allows, in .venv-oldest
# make docs            build the site in docs/_build/html (make docs EBM_JAX_SMALL=1: quickly)
# make wheel           build wheel and sdist in dist/, and try the wheel in an empty environment
# make demo JAX=cuda13 the demo on an NVIDIA GPU (driver 580 or newer); JAX=tpu on a TPU
# make test-slow JAX=tpu-compile  also compiles train steps for a TPU, on a machine without one
PYTHON ?= python3
JAX ?= cpu
VENV := .venv
OLDEST := .venv-oldest
RUN := $(VENV)/bin/python
PIP := pip install --quiet --disable-pip-version-check
comma := ,
EXTRAS := test,speech$(if $(filter-out cpu,$(JAX)),$(comma)$(JAX))
STAMP := $(VENV)/installed-$(JAX)
# kernels, buffers, devices, a train step of each family, resume, the notebooks' first cells, runs
# side by side
OLDEST_TESTS := tests/test_train.py tests/test_mcmc.py tests/test_conv.py tests/test_families.py \
  tests/test_notebooks.py \
  tests/test_fit.py::test_resume_equals_uninterrupted_bit_for_bit \
  tests/test_fit.py::test_resume_on_another_number_of_devices \
  tests/test_experiments_guard.py::test_runs_side_by_side_are_the_runs_one_by_one

export EBM_JAX_SMALL
.PHONY: demo test test-slow test-oldest docs wheel lint clean

demo: $(STAMP)
	$(RUN) -m experiments.digits_st_jem --workdir=runs/demo
	$(RUN) -m experiments.evaluate --workdir=runs/demo
	@echo "Open runs/demo/report.html in a browser"

PYTEST := $(RUN) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder
test: $(STAMP)
	$(PYTEST) -m 'not slow'

test-slow: $(STAMP)
	$(PYTEST) -m slow

test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -q -n 2 $(OLDEST_TESTS)

# With so many processes each page has its own, and the notebooks run side by side. Kernels that start
# at once may take the same port, rarely: then all is built once more (-E: nothing is kept).
SITE := $(VENV)/bin/sphinx-build -E -j 32 -W --keep-going -q -b html docs docs/_build/html
docs: $(VENV)/installed-docs
	$(SITE) || { echo "The site was not built; once more."; $(SITE); }
	@echo "Open docs/_build/html/index.html in a browser"

wheel: $(STAMP)
	rm -rf dist build
	$(VENV)/bin/$(PIP) build
	$(RUN) -m build . > /dev/null
	$(RUN) tests/smoke_wheel.py dist $(PYTHON)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(STAMP): setup.py requirements.txt
	@case "$(JAX)" in cpu|cuda13|tpu|tpu-compile) ;; *) echo "JAX=$(JAX) is not known: use cpu, cuda13, tpu or tpu-compile" >&2; exit 2;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/$(PIP) -r requirements.txt -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/installed-docs: $(STAMP) requirements-docs.txt
	$(VENV)/bin/$(PIP) -r requirements-docs.txt -r requirements.txt -e '.[docs,speech]'
	@touch $@

$(OLDEST)/installed: setup.py requirements-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/$(PIP) -r requirements-oldest.txt -e '.[speech]'
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) runs build dist docs/_build docs/tutorials *.egg-info .pytest_cache .ruff_cache .mypy_cache
