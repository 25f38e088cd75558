"""The environment of a test run, as a plugin of pytest: its processes, temporary folders, caches and threads.

It is the first plugin that tests/conftest.py names, because libraries read these variables when they are imported.
"""

from __future__ import annotations

import math
import os

import pytest

from tests.helpers.guard import start_guard
from tests.helpers.paths import ROOT

# Caches that are costly to fill (compiled kernels, lists of fonts, shaders) are shared by all runs in this tree, and
# the user's own ones are left alone.
CACHE = ROOT / ".cache/tests"
_FOLDERS = {
    "XDG_CACHE_HOME": CACHE,
    "HF_HOME": CACHE / "huggingface",
    "MPLCONFIGDIR": CACHE / "matplotlib",
    "PREFECT_HOME": CACHE / "prefect",
    "TORCH_EXTENSIONS_DIR": CACHE / "torch_extensions",
    "TRITON_CACHE_DIR": CACHE / "triton",
    "WORLD2ACT_CACHE": CACHE / "world2act",
    "WORLD2ACT_WORKSPACES": CACHE / "workspaces",
}


def _set_up() -> None:
    for name, folder in _FOLDERS.items():
        os.environ[name] = str(folder)
    CACHE.mkdir(parents=True, exist_ok=True)
    # next to simulator processes, two torch threads on small models take longer than one
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    start_guard()


_set_up()


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as processors: a third of the time a test waits, for a server or for a process to end."""
    return math.ceil(1.5 * (os.cpu_count() or 1))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # by the number of tests, where --dist loadfile is in force
    config.option.loadscopereorder = False
