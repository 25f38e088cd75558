"""A policy that another process or machine serves (family "remote"): only its action chunks come here.

It speaks openpi's websocket protocol, which `world2act serve` speaks too, and that of GR00T's ZeroMQ server. Such a
policy can be post-trained like any other, since World2Act's residual needs nothing but its action chunks.
"""

SUMMARY = "served by another process or machine; the folder holds its address and interface, and no weights"
