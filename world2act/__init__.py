"""World2Act end to end; see README.md."""

import os

# Stages run beside one another and beside simulators. OpenMP threads that spin while they wait would take the cores
# from those: on two cores a stage was measured up to eight times slower. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
