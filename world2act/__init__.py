"""World2Act end to end; see README.md."""

import os

from world2act.processes.lifetime import end_with_parent

# Stages run in parallel, with simulators next to them. OpenMP threads that spin while they wait would take the cores
# from those: on two cores a stage was measured up to eight times slower. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# What DVC started, and what that starts in turn, begins with this import; later would leave a gap of seconds.
if "DVC_STAGE" in os.environ:
    end_with_parent()
