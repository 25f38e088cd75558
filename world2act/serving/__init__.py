"""A policy served to robots over openpi's websocket protocol: `world2act serve`.

sources       the policy to serve: a folder, or a signed release fetched from the store
observations  a client's message → an `Observation`, or an error that says which key is wrong
batching      requests of several clients → one `Policy.predict`
server        the protocol, the limits, the API key
"""
