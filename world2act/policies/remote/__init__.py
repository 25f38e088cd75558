"""A policy that another process or machine serves (family "remote"): only its action chunks come here.

Speaks openpi's websocket protocol, which `world2act serve` speaks too, and that of GR00T's ZeroMQ server. Post-training
stands over such a policy as over any other, since World2Act's residual needs no more than its action chunk.
"""

from typing import Any

from world2act.policies.remote.policy import RemotePolicy, from_pretrained

__all__ = ["RemotePolicy", "from_pretrained", "make_objective"]
SUMMARY = "served by another process or machine; only its address is saved here"


def make_objective(*arguments: Any) -> Any:
    """See `objective`: torch, which a client can do without, comes with it."""
    from world2act.policies.remote import objective

    return objective.make_objective(*arguments)
