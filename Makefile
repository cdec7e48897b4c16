# Each target installs what it needs. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= 1
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

ifeq ($(TORCH),0)
TEST_EXTRAS := test,demo,report,recordings,browser
else
TEST_EXTRAS := test,demo,report,recordings,browser,torch
endif

# What an installation depends on; the native engine is compiled by it where there is a compiler.
SOURCES := pyproject.toml constraints.txt setup.py $(wildcard stream_classifier/engines/cpp/*)
SAY_ENGINE = $(BIN)/python -c 'from stream_classifier.engines import default_engine; \
	print("engine on the CPU:", default_engine())' >&2

.PHONY: help demo test test-faults lint format clean mosquitto chromium

help:
	@echo "make demo      a simulated headset, the classifier, a broker and a subscriber (ARGS='--seconds 60')"
	@echo "make test      the whole test suite (TORCH=0: without torch)"
	@echo "make test-faults  every row of the fault matrix, the slow ones too; writes docs/reliability.md"
	@echo "make lint      ruff and mypy"
	@echo "make format    ruff format"
	@echo "make clean     remove the virtual environment and caches"

demo: $(VENV)/.demo
	@$(BIN)/stream-classifier demo $(ARGS)

test: $(VENV)/.test-$(TORCH) mosquitto chromium
	$(BIN)/python -m pytest -n 3 --dist loadgroup $(ARGS)

test-faults: $(VENV)/.test-$(TORCH) mosquitto chromium
	RELIABILITY_TABLE=docs/reliability.md $(BIN)/python -m pytest -n 3 --dist worksteal -m "slow or not slow" \
	  tests/system/faults $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist stream_classifier/engines/_native* *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Debian keeps venv in a package of its own.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); } || \
	  { echo "python's venv module is missing. Try: sudo apt-get install python3-venv"; exit 1; }

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	@echo "installing into $(VENV) ..." >&2
	@$(PIP) -e '.[demo]'
	@$(SAY_ENGINE)
	@touch $@

$(VENV)/.test-$(TORCH): $(SOURCES) | $(BIN)/python
	@echo "installing into $(VENV) ..." >&2
	@$(PIP) -e '.[$(TEST_EXTRAS)]'
	@$(SAY_ENGINE)
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	@echo "installing into $(VENV) ..." >&2
	@$(PIP) -e '.[dev,$(TEST_EXTRAS)]'
	@touch $@

# The tests talk to a real mosquitto where there is one, and are skipped with a reason elsewhere.
mosquitto:
	@command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends mosquitto mosquitto-clients >/dev/null; \
	else \
	  echo "mosquitto (an MQTT broker) is not installed, so the tests that need it will be skipped."; \
	  echo "To run them: sudo apt-get install mosquitto   (macOS: brew install mosquitto)"; \
	fi

# The monitor page is tested in a real browser where there is one.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null || \
	  echo "Chromium could not be installed, so the tests of the monitor page will be skipped."; \
	else \
	  echo "Chromium is not installed, so the tests of the monitor page will be skipped."; \
	  echo "To run them: sudo apt-get install chromium   (macOS: brew install --cask chromium)"; \
	fi
