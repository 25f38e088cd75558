.DEFAULT_GOAL := help
.PHONY: help setup setup-test repro serve test test-fast test-slow lint lock libero test-libero lerobot test-lerobot

# Recipes run inside the virtual environment; OSMesa renders without a display or a GPU.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MUJOCO_GL ?= osmesa

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' Makefile | expand -t 20

setup:  ## install system libraries and .venv; instant when nothing changed
	@bash infra/setup.sh

setup-test:
	@bash infra/setup.sh test

repro: setup  ## set up, then run the pipeline on the profile in force
	@world2act repro

serve: setup  ## Prefect on this machine: server and UI on loopback, worker, deployments, until Ctrl-C
	@python -m flows.serve

test: setup-test  ## set up, then run the tests, the end-to-end one included
	@python -m pytest -m "not slow and not libero" --numprocesses logical --maxprocesses 4 --dist loadfile

test-fast: setup-test  ## set up, then run the unit tests that start no server and no long process: about two minutes
	@python -m pytest tests/unit -m "not slow and not libero and not costly" --numprocesses logical --maxprocesses 4 --dist loadfile

test-slow: setup-test  ## run the tests that take long
	@python -m pytest -m "slow and not libero"

libero:  ## LIBERO in .venv-libero; WORLD2ACT_LIBERO_ASSETS=/path/to/assets, or =download
	@bash infra/simulators/libero/setup.sh

test-libero: setup-test libero  ## run the tests that need LIBERO and its assets
	@python -m pytest -m libero

lerobot:  ## LeRobot and our plugin in .venv-lerobot; needs Python 3.12 or 3.13
	@bash infra/lerobot/setup.sh

test-lerobot: setup-test lerobot  ## run policies of every family under LeRobot's own commands
	@python -m pytest tests/unit/policies/test_lerobot_plugin.py

lint: setup-test  ## check style, formatting and types
	@ruff check .
	@ruff format --check .
	@mypy

lock: setup  ## write requirements.lock from pyproject.toml again (torch is installed apart)
	@pip install --quiet uv
	@uv lock --quiet
	@uv export --quiet --no-emit-project --no-emit-package world2act-client --extra pipeline --extra operate --extra test --prune torch --no-header --output-file requirements.lock
	@uv pip compile --quiet client/pyproject.toml --generate-hashes --no-header --universal --python-version 3.11 \
		--constraint requirements.lock --no-emit-index-url --output-file client/requirements.lock
	@rm uv.lock
	@uv lock --quiet --project lerobot_policy_world2act
	@uv export --quiet --project lerobot_policy_world2act --extra test --no-emit-project --no-emit-package world2act --prune torch --prune torchvision --no-header --output-file lerobot_policy_world2act/requirements.lock
	@rm lerobot_policy_world2act/uv.lock
