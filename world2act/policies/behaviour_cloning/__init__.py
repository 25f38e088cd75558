"""Behaviour cloning (family "behaviour_cloning"): images, proprioception and an instruction → an action chunk.

Trained by squared error, without noise or iteration: the chunk is the mean of what was demonstrated. Nothing else in
the project names this package, so it also shows what a family of another package consists of.
"""

SUMMARY = "convolutions and a transformer, squared error"
