"""No process of a run outlives the one that started it: flow, DVC, stage, its ranks and its simulator processes.

A stage that continued after its pipeline was killed would write at the same time as the next run's stage. A killed
parent cannot tidy up, so the kernel does: each process of the chain asks for SIGKILL when its parent ends, however
that happens. Only Linux can do this; elsewhere nothing is asked.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def child_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a Python module as a child that ends with this process.

    The thread that starts it must wait for it: to the kernel, the parent is that thread.
    """
    return [sys.executable, "-m", "world2act.processes.child", str(os.getpid()), module, *arguments]


def end_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends.

    Args:
        parent: the process that started this one, where it is known; had it ended before this call, end now.

    Raises:
        OSError: the kernel refused.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = parent or os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
