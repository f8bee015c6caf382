"""Security groups: what a port may send (``egress``) and get (``ingress``), and under which addresses it may send (``guard``)."""
