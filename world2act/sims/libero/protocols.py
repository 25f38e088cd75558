"""The two published ways to evaluate on LIBERO. They disagree, so scores published under them cannot be compared.

Sources: openpi examples/libero/main.py, LeRobot src/lerobot/envs/libero.py.
"""

from __future__ import annotations

from world2act.sims.evaluation_protocols import EvaluationProtocol

_PUBLISHED = (
    EvaluationProtocol(
        name="libero-openpi",
        source="openpi, examples/libero/main.py",
        max_steps={
            "libero_spatial": 220,
            "libero_object": 280,
            "libero_goal": 300,
            "libero_10": 520,
            "libero_90": 400,
        },
        trials=50,
        seed=7,
        render_size=256,
        image_size=224,
        resize="bilinear, Pillow",
    ),
    EvaluationProtocol(
        name="libero-lerobot",
        source="LeRobot, src/lerobot/envs/libero.py; trials as in its documentation (its code: 50)",
        max_steps={
            "libero_spatial": 280,
            "libero_object": 280,
            "libero_goal": 300,
            "libero_10": 520,
            "libero_90": 400,
        },
        trials=10,
        seed=1000,
        render_size=360,
        image_size=360,
        resize="none",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _PUBLISHED}
