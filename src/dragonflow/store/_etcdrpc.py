"""gRPC, and etcd's messages and stubs as aetcd ships them; imported here alone, for gRPC reads its settings at its import.

What fails is raised, and said once in our own log; gRPC would print it to standard error as well, at each attempt. And a
process that has used gRPC and forks must not be halted by gRPC's fork handlers (seen: its own next request never returned). The
child can't use gRPC then; whoever forks workers does so before the first request, as ``blocking.Portal`` has it.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
from aetcd import rpc

__all__ = ["grpc", "rpc"]
