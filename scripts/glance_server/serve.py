"""Serves one WSGI application on a loopback port: serve.py MODULE PORT OWNER

Ends with the process OWNER (0: nobody), however that ended.
"""

import importlib
import os
import select
import socket
import sys
import threading

import sqlalchemy
from waitress import create_server


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute", retval=True)
def take_turns(connection, cursor, statement, parameters, context, executemany):
    """Let SQLite's transactions wait for each other: one that reads first and writes later is refused as locked."""
    return ("BEGIN IMMEDIATE" if statement == "BEGIN" else statement), parameters


def end_with(owner: int) -> None:
    descriptor = os.pidfd_open(owner)
    select.select([descriptor], [], [])
    os._exit(0)


def main() -> None:
    module, port, owner = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    del sys.argv[1:]  # OpenStack's services read the arguments, too
    if owner:
        threading.Thread(target=end_with, args=(owner,), daemon=True).start()
    # Bound before the application loads: a client that comes early waits instead of failing.
    listener = socket.create_server(("127.0.0.1", port))
    application = importlib.import_module(module).application
    server = create_server(
        application, sockets=[listener], threads=8, max_request_body_size=1 << 42, channel_timeout=600, ident=None
    )
    server.run()


main()
