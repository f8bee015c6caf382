"""The local controller: one asyncio loop a host, from the DF DB's rows to confirmed flows and back to the ports' status."""
