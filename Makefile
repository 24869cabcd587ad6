# kofn: `make demo` and `make test` do everything, from an empty machine with Python 3.11 on.
.PHONY: help demo test test-slow test-core-fed test-launch-1 test-launch-2 test-others check bench clean \
	environments environment-main environment-fed

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/'

demo:  ## install, then steer 20 simulated robots by polling 5 of them
	@scripts/bootstrap all
	@.venv/bin/kofn demo

test: environments  ## install, then run the tests (without the slow ones)
	@$(MAKE) --no-print-directory -j3 --output-sync=target MARK="not slow" \
		test-launch-2 test-others test-core-fed test-launch-1

test-slow: environments  ## the slow tests, one after the other
	@$(MAKE) --no-print-directory MARK=slow \
		test-launch-2 test-others test-core-fed test-launch-1

# Three lots at a time: many tests wait for real processes. A lot without tests of the mark is fine (5).
test-core-fed:
	.venv/bin/python -m pytest -m "$(MARK)" tests/core || [ $$? = 5 ]
	.venv-fed/bin/python -m pytest -m "$(MARK)" tests/fed || [ $$? = 5 ]

test-launch-1:
	.venv/bin/python -m pytest -m "$(MARK)" --durations=12 tests/launch/test_[a-f]*.py

test-launch-2:
	.venv/bin/python -m pytest -m "$(MARK)" --durations=12 tests/launch/test_[g-z]*.py

test-others:
	.venv/bin/python -m pytest -m "$(MARK)" --durations=12 --ignore tests/core --ignore tests/fed \
		--ignore tests/launch tests

# flwr and amqtt cannot be installed together, see pyproject.toml.
environments:
	@$(MAKE) --no-print-directory -j2 environment-main environment-fed

environment-main:
	@scripts/bootstrap all,dev

environment-fed:
	@scripts/bootstrap fed,fed-data,dev .venv-fed

check: environments  ## lint, format, types, import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@# fed/flower and its tests are checked against the real flwr, in its own environment.
	.venv/bin/mypy --exclude fed/flower/
	@# One call per folder: several have a module `conftest`.
	@for folder in benchmarks $(filter-out tests/fed/,$(sort $(dir $(wildcard tests/*/*.py)))); do \
		echo ".venv/bin/mypy $$folder"; .venv/bin/mypy $$folder || exit 1; \
	done
	.venv-fed/bin/mypy --cache-dir .mypy_cache/fed -p kofn.fed.flower
	.venv-fed/bin/mypy --cache-dir .mypy_cache/fed tests/fed/*.py
	.venv/bin/lint-imports --no-logo --no-cache

bench:  ## measure; prints tables of ratios
	@scripts/bootstrap all,bench
	@for script in benchmarks/bench_*.py; do .venv/bin/python $$script || exit 1; done

clean:  ## remove what the targets above made, but not runs/
	rm -rf .venv .venv-fed build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
