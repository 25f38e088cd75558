"""The program of every simulator worker: environments of one simulator, and calls over a socket until it closes.

It runs by path under the simulator's own interpreter, which may be another one than its parent's, and needs nothing
there except numpy and the simulator. Of world2act it imports only modules that need no more than that, found next to
this file and not through the interpreter's path, so that neither environment sees the other's packages. Whatever the
simulator prints goes to its parent's log; the socket is out of its reach.

    python -P serve.py SOCKET PARENT TARGET

A request is a list of calls [environment, function, arguments, keywords], carried out in order. The reply is
{"values": [...]}, or, from the first call that fails, {"failed": its index, "error": ..., and what is known of it}.
"""

from __future__ import annotations

import importlib
import importlib.util
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from world2act.sims.base import Environment

MAKE = "make"


def _find_package() -> None:
    """Let `import world2act` find the package that this file is part of."""
    folder = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "world2act", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["world2act"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["world2act"])


class Server:
    """The environments of one process.

    Args:
        target: `module` or `module:attribute`, imported at the first environment; it defines `make_environment`.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._environments: list[Environment] = []

    def answer(self, calls: Sequence[tuple[int | None, str, list[object], Mapping[str, object]]]) -> dict[str, object]:
        """Carry out the calls of one request."""
        from world2act.core.errors import BadInput, World2ActError

        values: list[object] = []
        try:
            for number, function, arguments, keywords in calls:
                values.append(self._call(number, function, arguments, keywords))
        except BadInput as error:
            parts = (error.where, error.key, error.found, error.expected, error.remedy)
            return {"failed": len(values), "error": "BadInput", "fields": [str(part) for part in parts]}
        except World2ActError as error:
            return {"failed": len(values), "error": "InfrastructureError", "message": str(error)}
        except Exception as error:
            traceback.print_exc()
            return {"failed": len(values), "error": type(error).__name__, "message": str(error)}
        return {"values": values}

    def _call(self, number: int | None, function: str, arguments: list[object], keywords: Mapping[str, Any]) -> object:
        if number is None:
            return self._make(*arguments, **keywords)
        if ":" in function:
            return _resolve(function)(self._environments[number], *arguments, **keywords)
        return getattr(self._environments[number], function)(*arguments, **keywords)

    def _make(self, *arguments: object, **keywords: object) -> object:
        from world2act.core.errors import BadInput

        try:
            environment = _resolve(self._target).make_environment(*arguments, **keywords)
        except ModuleNotFoundError as error:
            found, expected = f"the Python package {error.name!r} is missing", f"it installed for {sys.executable}"
            raise BadInput(self._target, "", found, expected, "run `make setup`, or install the package") from error
        self._environments.append(environment)
        return {"task": environment.task, "embodiment": environment.embodiment}


def _resolve(name: str) -> Any:
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def main(descriptor: int, parent: int, target: str) -> None:
    """Answer requests until the parent closes the connection, or dies."""
    from world2act.processes.lifetime import end_with_parent
    from world2act.sims.wire import receive, send

    end_with_parent(parent)
    connection = socket.socket(fileno=descriptor)
    server = Server(target)
    while True:
        try:
            calls: Any = receive(connection)
        except (EOFError, ConnectionResetError, KeyboardInterrupt):
            return
        reply = server.answer(calls)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            send(connection, reply)
        except (BrokenPipeError, ConnectionResetError):  # the parent has given up on this answer
            return


if __name__ == "__main__":
    _find_package()
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
