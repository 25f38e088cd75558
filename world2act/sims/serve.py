"""The program of a simulator process: environments of one module, commands over a socket until it closes.

It runs under the simulator's own interpreter, by path, and needs nothing there but numpy and the simulator: of
world2act it takes the modules that import no more than that (errors, lifetime, sims.base, sims.wire and the served
one), found beside this file and not through the interpreter's path, so that neither environment sees the other's
packages. Whatever the simulator prints goes to the log of its parent; the socket is out of its reach.

    python -P serve.py SOCKET PARENT MODULE
"""

from __future__ import annotations

import importlib
import importlib.util
import socket
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any


def _find_package() -> None:
    """Let `import world2act` find the package that this file is part of."""
    folder = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "world2act", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["world2act"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["world2act"])


def main(descriptor: int, parent: int, module_name: str) -> None:
    """Answer every message {command, environment, arguments} with {value}, or {error} and what is known of it."""
    from world2act.core.errors import BadInput, World2ActError
    from world2act.processes.lifetime import end_with_parent
    from world2act.sims.wire import receive, send

    end_with_parent(parent)
    connection = socket.socket(fileno=descriptor)
    environments: list[Any] = []
    while True:
        try:
            message = receive(connection)
        except (EOFError, ConnectionResetError):
            return
        try:
            reply = {"value": _answer(environments, module_name, message)}
        except BadInput as error:
            fields = (error.where, error.key, error.found, error.expected, error.remedy)
            reply = {"error": "BadInput", "fields": [str(field) for field in fields]}
        except World2ActError as error:
            reply = {"error": "InfrastructureError", "message": str(error)}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": type(error).__name__, "message": str(error)}
        sys.stdout.flush()
        sys.stderr.flush()
        send(connection, reply)


def _answer(environments: list[Any], module_name: str, message: dict[str, Any]) -> Any:
    command, arguments = message["command"], message["arguments"]
    if command == "make":
        module = importlib.import_module(module_name)
        environments.append(module.make_environment(**arguments))
        made = environments[-1]
        return {"number": len(environments) - 1, "task": asdict(made.task), "embodiment": asdict(made.embodiment)}
    value = getattr(environments[message["environment"]], command)(**arguments)
    return vars(value) if command == "observe" else value


if __name__ == "__main__":
    _find_package()
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
