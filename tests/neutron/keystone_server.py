"""A real Keystone in one process: makes its database and keys, an administrator, and serves. ``keystone_server.py DIR PORT``.

``keystone-manage`` would take three processes for the same, five seconds each to import.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from keystone.cmd import cli

PASSWORD = "secret"


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def main(directory: Path, port: int) -> None:
    for name in ("fernet", "credential"):
        (directory / name).mkdir(mode=0o700)
    conf = directory / "keystone.conf"
    conf.write_text(
        f"[database]\nconnection = sqlite:///{directory}/keystone.sqlite\n"
        f"[fernet_tokens]\nkey_repository = {directory}/fernet\n[credential]\nkey_repository = {directory}/credential\n"
        "[identity]\npassword_hash_rounds = 4\n[cache]\nenabled = false\n"
    )
    url = f"http://127.0.0.1:{port}/v3"
    for command in (
        ["db_sync"],
        ["fernet_setup", "--keystone-user", "root", "--keystone-group", "root"],
        ["bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", "RegionOne"]
        + [f"--bootstrap-{which}-url={url}" for which in ("public", "internal", "admin")],
    ):
        child = os.fork()  # keystone-manage takes one command a process
        if child == 0:
            os._exit(cli.main(["keystone-manage", "--config-file", str(conf), *command]) or 0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"keystone-manage {command[0]} failed")
    sys.argv = ["keystone", "--config-file", str(conf)]
    from keystone.server import wsgi

    application = wsgi.initialize_public_application()
    with make_server("127.0.0.1", port, application, Server) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
