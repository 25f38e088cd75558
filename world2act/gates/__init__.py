"""The gates: one module per artifact, which measures the artifact and states what must hold of it.

Every module here is a gate, named after its artifact. It has one function, `tables(artifacts, params)`; what judges
the tables is in `world2act.gates.engine`. Another package adds a gate by an entry point in the group `world2act.gates`.
"""
