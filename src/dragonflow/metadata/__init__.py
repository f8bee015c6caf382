"""The metadata service: what a guest asks 169.254.169.254 or fe80::a9fe:a9fe goes to Nova, with a word on whose question it is.

::

    guest ── br-int ───────── df-metadata ── proxy ── HTTP ──> Nova's metadata API
             (apps/metadata:   (an interface   │
              addresses become  of the host)   └── "who is at this address?" ──> local controller (control socket)
              unique)

``address`` is the agreement between the flows and the proxy; ``interface`` is the host's end; ``proxy`` speaks HTTP. The proxy is
a process of its own (``dragonflow metadata-proxy``): what guests do to it never reaches the controller's loop.
"""
