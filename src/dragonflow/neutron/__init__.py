"""Neutron → DF DB and back: the ML2 driver ``df`` and what it needs. Plain threads; never imports ``controller``.

::

    POST /ports ─ mech_driver ─ precommit: journal entry ─┐ one SQL transaction
                      │ bind_port: binding                ┘
                      ▼ postcommit wakes
                   journal ─ translate ─► DF DB ─► controllers
                                                        │ PortStatus, Chassis, Alive
    Neutron port ACTIVE, agent list ◄─ status, agents ◄─┘   (one leader per cluster)
"""
