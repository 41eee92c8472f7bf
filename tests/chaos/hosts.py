"""A second host: a network namespace with mailcasters in it that reach database and relay over TCP, and can be cut off.

Where namespaces are not allowed the second host is two processes that are suspended together.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from mail_orchestration.installation import open_installation
from mail_orchestration.kernel.embedded_postgres.home import open_home
from tests.chaos.site import Mailcaster, Site

PLACES = ("host-1", "host-2")
DATABASE_PORT = 5432
SETTINGS = "host.yaml"


@dataclass(frozen=True, kw_only=True)
class Host:
    """The namespace, and how it is left and entered."""

    netns: str
    """Empty where there is none."""
    inner: str
    address: str
    """Of the outer host, where database and relay are."""

    @property
    def database_url(self) -> str:
        """As seen from within; empty where the second host is none of its own."""
        return (
            f"postgresql://postgres@{self.address}:{DATABASE_PORT}/mail_orchestration" if self.netns else ""
        )

    def cut_off(self) -> None:
        """Nothing goes in or out any more, and nobody is told."""
        _ip("-n", self.netns, "link", "set", self.inner, "down")

    def join(self) -> None:
        """The network is back."""
        _ip("-n", self.netns, "link", "set", self.inner, "up")


def mailcasters(connections: int) -> list[Mailcaster]:
    """Those of the second host."""
    parameters = {"min_job_size": 100, "max_job_size": 500, "percentage_job_size": 10.0}
    return [Mailcaster(name=name, parameters={**parameters, "connections": connections}) for name in PLACES]


@contextmanager
def second_host() -> Iterator[Host]:
    """Make the namespace, and take it away again."""
    mark = os.getpid()
    netns, outer, inner = f"mochaos{mark}", f"mc{mark}a", f"mc{mark}b"
    network = f"10.{200 + mark // 256 % 50}.{mark % 256}"
    if os.geteuid() or shutil.which("ip") is None or not _ip("netns", "add", netns, must=False):
        yield Host(netns="", inner="", address="127.0.0.1")
        return
    with ExitStack() as stack:
        stack.callback(_ip, "netns", "del", netns, must=False)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", netns)
        _ip("addr", "add", f"{network}.1/30", "dev", outer)
        _ip("link", "set", outer, "up")
        _ip("-n", netns, "addr", "add", f"{network}.2/30", "dev", inner)
        _ip("-n", netns, "link", "set", "lo", "up")
        _ip("-n", netns, "link", "set", inner, "up")
        yield Host(netns=netns, inner=inner, address=f"{network}.1")


def let_in(site: Site, host: Host) -> None:
    """Have the site's database listen on the host's network too. Before anything else uses the database."""
    if not host.netns:
        return
    with open_installation(site.settings, application_name="chaos") as inst:
        with inst.database.connect_autocommit() as connection:
            # A setting cannot be a bind; the address is ours.
            connection.execute(text(f"ALTER SYSTEM SET listen_addresses = '{host.address}'"))
        rules = open_home(inst.settings.data_dir).data / "pg_hba.conf"
        with Path(rules).open("a", encoding="ascii") as more:
            more.write(f"host all all {host.address}/30 trust\n")
    # Its last user has let go, so the server has stopped, and starts with this.


def _ip(*arguments: str, must: bool = True) -> bool:
    done = subprocess.run(["ip", *arguments], check=must, capture_output=True)
    return done.returncode == 0
