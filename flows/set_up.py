"""`python -m flows.set_up`: what the deployments need on a Prefect server: work pools and one automation.

Input: infra/work_pools/<work pool>.json, base job templates; a name is a type of worker, optionally followed by a dash
and a suffix. The server is the one of PREFECT_API_URL. Running it again brings the pools up to date.
"""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.server import retry_temporary

WORK_POOLS = Path("infra/work_pools")
HEARTBEAT_S = 30  # the shortest that Prefect has; the templates of the work pools say it too
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
# A worker that is killed together with its flow run reports nothing: the run would stay Running and keep its slot.
ZOMBIES = AutomationCore(
    name="world2act: crash runs that went silent",
    description=f"A flow run without a heartbeat for {3 * HEARTBEAT_S} s is crashed, and its slot is free.",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        after={_HEARTBEAT},
        expect={_HEARTBEAT} | _ENDS,
        threshold=1,
        within=timedelta(seconds=3 * HEARTBEAT_S),
    ),
    actions=[
        ChangeFlowRunState(
            name=None, state=StateType.CRASHED, message="Its process ended without reporting a state.", force=False
        )
    ],
)


async def set_up() -> None:
    """Make the work pools and the automation. An automation that exists is kept, with the runs that it watches."""
    async with get_client() as client:
        for path in sorted(WORK_POOLS.glob("*.json")):
            template = json.loads(path.read_text(encoding="utf-8"))
            pool = WorkPoolCreate(name=path.stem, type=path.stem.partition("-")[0], base_job_template=template)
            await client.create_work_pool(pool, overwrite=True)
        if not await client.read_automations_by_name(ZOMBIES.name):
            await client.create_automation(ZOMBIES)


if __name__ == "__main__":
    retry_temporary(lambda: asyncio.run(set_up()))
