# kofn: `make demo` and `make test` do everything, from an empty machine with Python 3.11 on.
.PHONY: help demo test test-slow check bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/'

demo:  ## install, then steer 20 simulated robots by polling 5 of them
	@scripts/bootstrap all
	@.venv/bin/kofn demo

test:  ## install, then run the tests (without the slow ones)
	@scripts/bootstrap all,dev
	.venv/bin/python -m pytest -m "not slow" --ignore tests/fed
	@if [ -d tests/fed ]; then scripts/bootstrap fed,fed-data,dev .venv-fed \
		&& .venv-fed/bin/python -m pytest -m "not slow" tests/fed; fi

test-slow:  ## the slow tests
	@scripts/bootstrap all,dev
	.venv/bin/python -m pytest -m slow --ignore tests/fed
	@if [ -d tests/fed ]; then scripts/bootstrap fed,fed-data,dev .venv-fed \
		&& .venv-fed/bin/python -m pytest -m slow tests/fed; fi

check:  ## lint, format, types, import rules
	@scripts/bootstrap all,dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@# fed/flower and its tests are checked against the real flwr, in its own environment.
	.venv/bin/mypy --exclude fed/flower/
	@# One call per folder: several have a module `conftest`.
	@for folder in benchmarks $(filter-out tests/fed/,$(sort $(dir $(wildcard tests/*/*.py)))); do \
		echo ".venv/bin/mypy $$folder"; .venv/bin/mypy $$folder || exit 1; \
	done
	@scripts/bootstrap fed,fed-data,dev .venv-fed
	.venv-fed/bin/mypy --cache-dir .mypy_cache/fed -p kofn.fed.flower
	.venv-fed/bin/mypy --cache-dir .mypy_cache/fed tests/fed/*.py
	.venv/bin/lint-imports --no-logo --no-cache

bench:  ## measure; prints tables of ratios
	@scripts/bootstrap all,bench
	@for script in benchmarks/bench_*.py; do .venv/bin/python $$script || exit 1; done

clean:  ## remove what the targets above made, but not runs/
	rm -rf .venv .venv-fed build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
