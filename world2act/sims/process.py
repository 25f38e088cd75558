"""Environments in a worker process: the Environment contract across a process boundary.

Every simulator runs in processes of its own, with `world2act.sims.serve` as the program, under the interpreter that
the simulator names: they disagree on the packages they need (LIBERO: robosuite 1.4, RoboCasa: 1.5 and later). What
goes in and comes out is what the environment itself takes and returns, to the byte.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

import numpy as np

from world2act.core.errors import BadInput, InfrastructureError
from world2act.sims import serve
from world2act.sims.base import Embodiment, Environment, Observation, Task
from world2act.sims.rig import Rig
from world2act.sims.simulator import WorkerProgram
from world2act.sims.wire import receive, send

TIMEOUT_S = 600.0
_LOG_TAIL = 2000
_ELSEWHERE = ("PYTHONPATH", "PYTHONHOME")  # they would bring this process's packages into another interpreter
P = ParamSpec("P")
T = TypeVar("T")


class Call(NamedTuple):
    """A call in a worker: of a method, or a function `module:name`, on the environment of that number; None makes one.

    A function must be importable there, so its module may need no more than numpy and this room.
    """

    environment: int | None
    function: str
    arguments: list[object]
    keywords: dict[str, object]

    @classmethod
    def make(cls, task: str, rig: Rig) -> Call:
        return cls(None, serve.MAKE, [task, rig], {})

    @classmethod
    def on(
        cls, environment: int, function: Callable[Concatenate[Environment, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Call:
        owner, _, method = function.__qualname__.rpartition(".")
        name = method if owner == Environment.__name__ else f"{function.__module__}:{function.__qualname__}"
        return cls(environment, name, list(args), dict(kwargs))


def explain(reason: str) -> str:
    """What happened in a worker, what was expected, and the remedy; our own errors say the last two themselves."""
    if "remedy:" in reason:
        return f": {reason}"
    return (
        f"\n  found:    {reason}\n  expected: an answer"
        "\n  remedy:   run the stage again; fewer base.workers if memory ran out"
    )


class CallRefused(BadInput):
    """A `BadInput` as the environment raised it; `call` is the index of the call in its request."""

    call: int = 0


class WorkerFailed(InfrastructureError):
    """A worker raised an exception, did not answer in time, or died; it has been ended.

    Attributes:
        reason: what happened, without what was printed.
        call: the index in the request of the call that raised; None where the process did not say.
        printed: what it printed last.
    """

    def __init__(self, target: str, reason: str, call: int | None, printed: str) -> None:
        super().__init__(f"the simulator process of {target}{explain(reason)}\n  it printed last:\n{printed}")
        self.reason, self.call, self.printed = reason, call, printed


class SimulatorProcess:
    """A worker process; it ends with the process, and thread, that started it.

    Args:
        timeout_s: how long an answer may take, per call of its request.

    Raises:
        BadInput: there is no such interpreter.
    """

    def __init__(self, program: WorkerProgram, timeout_s: float = TIMEOUT_S) -> None:
        self._target, self._timeout_s = program.target, timeout_s
        self._environments = 0
        self._requests: deque[Sequence[Call]] = deque()
        self._connection, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process may write
        command = [str(program.python), "-P", serve.__file__, str(theirs.fileno()), str(os.getpid()), program.target]
        variables = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=[theirs.fileno()],
                    env=variables | dict(program.variables),
                )
        except OSError as error:
            remedy = "make the environment again"
            raise BadInput(program.python, "", error.strerror, "a Python interpreter", remedy) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def make_environment(self, task: str, rig: Rig) -> ProcessEnvironment:
        """Make an environment in the process. Raises what the worker's `make_environment` raises, and see `answers`."""
        number = self._environments
        self.request([Call.make(task, rig)])
        (made,) = self.answers()
        return ProcessEnvironment(self, number, **cast(dict[str, Any], made))

    def request(self, calls: Sequence[Call]) -> None:
        """Send calls without waiting; `answers` collects their values. Requests are answered in order."""
        self._requests.append(calls)
        self._environments += sum(call.environment is None for call in calls)
        with suppress(OSError):  # `answers` reports the dead process
            self._connection.settimeout(self._timeout_s * len(calls))
            send(self._connection, [list(call) for call in calls])

    def answers(self) -> list[object]:
        """The values of the oldest request that was not answered yet.

        Raises:
            CallRefused: the environment raised a `BadInput`; the process goes on.
            WorkerFailed: it raised anything else, gave no answer in time, or its process died.
        """
        calls = self._requests.popleft()
        timeout_s = self._timeout_s * len(calls)
        try:
            self._connection.settimeout(timeout_s)
            reply = cast(dict[str, Any], receive(self._connection))
        except TimeoutError as error:
            functions = ", ".join(dict.fromkeys(repr(call.function) for call in calls))
            raise self._failure(f"no answer to {functions} within {timeout_s:g} s") from error
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            raise self._failure(f"its process died, exit code {self._process.poll()}") from error
        if "values" in reply:
            return cast(list[object], reply["values"])
        if reply["error"] == "BadInput":
            refused = CallRefused(*reply["fields"])
            refused.call = reply["failed"]
            raise refused
        function = calls[reply["failed"]].function
        raise self._failure(f"{reply['error']} in {function!r}: {reply['message']}", reply["failed"])

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _failure(self, reason: str, call: int | None = None) -> WorkerFailed:
        self.stop()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_TAIL))
        printed = self._log.read().decode(errors="replace").strip() or "nothing"
        return WorkerFailed(self._target, reason, call, printed)


class ProcessEnvironment:
    """An environment in a `SimulatorProcess`; see `world2act.sims.base.Environment` and `SimulatorProcess.answers`."""

    def __init__(self, process: SimulatorProcess, number: int, task: Task, embodiment: Embodiment) -> None:
        self._process, self._number, self.task, self.embodiment = process, number, task, embodiment

    def reset(self, seed: int) -> None:
        self.run(Environment.reset, seed)

    def observe(self) -> Observation:
        return self.run(Environment.observe)

    def step(self, action: np.ndarray) -> bool:
        return self.run(Environment.step, np.asarray(action))

    def expert_action(self) -> np.ndarray:
        return self.run(Environment.expert_action)

    def expert_phase(self) -> int:
        return self.run(Environment.expert_phase)

    def gripper_opening(self) -> float:
        return self.run(Environment.gripper_opening)

    def render(self, size: int) -> np.ndarray:
        return self.run(Environment.render, size)

    def close(self) -> None:
        """Nothing: environments are freed with their process."""

    def run(self, function: Callable[Concatenate[Environment, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of an environment in the process, where each step costs no message; see `Call`."""
        self._process.request([Call.on(self._number, function, *args, **kwargs)])
        (value,) = self._process.answers()
        return cast(T, value)


_running: dict[tuple[Path, str], SimulatorProcess] = {}


def shared_process(program: WorkerProgram) -> SimulatorProcess:
    """The one process that this process shares among all environments of a program; a new one if the last has died."""
    key = program.python, program.target
    process = _running.get(key)
    if process is None or not process.alive:
        process = _running[key] = SimulatorProcess(program)
    return process
