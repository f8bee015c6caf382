"""gRPC, and etcd's messages and stubs as aetcd ships them; imported here alone, for gRPC has to be quiet from its import on.

What fails is raised, and said once in our own log; gRPC would print it to standard error as well, at each attempt.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from aetcd import rpc

__all__ = ["grpc", "rpc"]
