"""Serves one WSGI application on a loopback port: serve.py MODULE PORT (the port's socket is opened at once)."""

import importlib
import socket
import sys

from waitress import create_server


def main() -> None:
    module, port = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:]  # OpenStack's services read the arguments, too
    # Bound before the application loads: a client that comes early waits instead of failing.
    listener = socket.create_server(("127.0.0.1", port))
    application = importlib.import_module(module).application
    server = create_server(
        application, sockets=[listener], threads=8, max_request_body_size=1 << 42, channel_timeout=600, ident=None
    )
    server.run()


main()
