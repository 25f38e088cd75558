"""Environments of a simulator that lives in a Python environment of its own: the contract over a process boundary.

Simulators disagree on the packages they need (LIBERO: robosuite 1.4, RoboCasa: 1.5 and later). Each therefore runs
under its own interpreter, with `world2act.sims.serve` as its program, and this module stands for it: what goes in and
comes out is what the environment itself would take and give, to the byte. A process holds all environments that its
parent makes of one simulator, since starting a simulator costs more than a task.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from world2act.core.errors import BadInput, InfrastructureError
from world2act.sims import serve
from world2act.sims.base import Embodiment, Observation, Task
from world2act.sims.wire import receive, send

TIMEOUT_S = 600.0
_LOG_TAIL = 2000


class SimulatorProcess:
    """A process that serves the environments of one module; it ends with the process, and thread, that started it.

    Args:
        python: the simulator's interpreter.
        module: the module to serve; it defines `make_environment(task, **options)`, options as JSON has them.
        variables: environment variables beside this process's own.
        timeout_s: how long any one answer may take.

    Raises:
        BadInput: there is no such interpreter.
    """

    def __init__(
        self, python: Path, module: str, variables: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._module = module
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(timeout_s)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process may write
        command = [str(python), "-P", serve.__file__, str(theirs.fileno()), str(os.getpid()), module]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=[theirs.fileno()],
                    env=_environment() | dict(variables or {}),
                )
        except OSError as error:
            raise BadInput(python, "", error.strerror, "a Python interpreter", "make the environment anew") from error

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def make_environment(self, task: str, **options: Any) -> ProcessEnvironment:
        """Make an environment in the process. Raises what the module's `make_environment` raises, and see `call`."""
        return ProcessEnvironment(self, self.call("make", None, task=task, **options))

    def call(self, command: str, environment: int | None, **arguments: Any) -> Any:
        """Have an environment of the process do something.

        Raises:
            BadInput: as the environment raised it.
            InfrastructureError: it raised anything else, gave no answer in time, or its process died; the process
                is then ended, and what it printed last stands in the message.
        """
        try:
            send(self._connection, {"command": command, "environment": environment, "arguments": arguments})
            reply = receive(self._connection)
        except TimeoutError as error:
            found = f"no answer to {command!r} within {self._connection.gettimeout():g} s"
            raise self._failure(found, "an answer") from error
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            raise self._failure(f"its process died, exit code {self._process.poll()}", "it alive") from error
        if "error" not in reply:
            return reply["value"]
        if reply["error"] == "BadInput":
            raise BadInput(*reply["fields"])
        raise self._failure(f"{reply['error']} in {command!r}: {reply['message']}", "an answer")

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _failure(self, found: str, expected: str) -> InfrastructureError:
        self.stop()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_TAIL))
        log = self._log.read().decode(errors="replace").strip() or "nothing"
        return InfrastructureError(
            f"the simulator process of {self._module}\n  found:    {found}\n  expected: {expected}"
            f"\n  remedy:   run the stage again; fewer base.workers if memory ran out\n  it printed last:\n{log}"
        )


class ProcessEnvironment:
    """An environment in a `SimulatorProcess`; see `world2act.sims.base.Environment` and `SimulatorProcess.call`."""

    def __init__(self, process: SimulatorProcess, made: Mapping[str, Any]) -> None:
        self._process, self._number = process, made["number"]
        self.task = Task(**made["task"])
        self.embodiment = Embodiment(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in made["embodiment"].items()}
        )

    def reset(self, seed: int) -> None:
        self._call("reset", seed=seed)

    def observe(self) -> Observation:
        return Observation(**self._call("observe"))

    def step(self, action: np.ndarray) -> bool:
        return self._call("step", action=np.asarray(action))

    def expert_action(self) -> np.ndarray:
        return self._call("expert_action")

    def expert_phase(self) -> int:
        return self._call("expert_phase")

    def gripper_opening(self) -> float:
        return self._call("gripper_opening")

    def render(self, size: int) -> np.ndarray:
        return self._call("render", size=size)

    def close(self) -> None:
        """Nothing: environments are freed with their process."""

    def _call(self, command: str, **arguments: Any) -> Any:
        return self._process.call(command, self._number, **arguments)


def _environment() -> dict[str, str]:
    """This process's variables without those that would bring its packages into another interpreter."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


_running: dict[tuple[Path, str], SimulatorProcess] = {}


def shared_process(python: Path, module: str, variables: Mapping[str, str]) -> SimulatorProcess:
    """This process's one simulator process for a module; a new one where the last has died."""
    process = _running.get((python, module))
    if process is None or not process.alive:
        process = _running[python, module] = SimulatorProcess(python, module, variables)
    return process
