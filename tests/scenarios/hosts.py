"""Hosts for the scenarios: network namespaces where root may make them, else process groups that can be suspended.

A host that is cut off runs on in the first case and reaches nobody; in the second it is suspended, which is as dead for
everybody else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mail_orchestration.installation import Installation
from tests.scenarios.installations import start_mailcaster

OWN_ADDRESS = "10.213.87.1"
"""Where the hosts find database and relay, if they have a network of their own."""


@dataclass
class Host:
    """One host: `launch` mailcasters on it, `cut_off` and `reconnect` it."""

    name: str
    namespace: str | None
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, inst: Installation, mailcaster: str) -> subprocess.Popen[bytes]:
        """One shift of a mailcaster on this host."""
        launcher = ("ip", "netns", "exec", self.namespace) if self.namespace else ()
        process = start_mailcaster(inst, mailcaster, launcher=launcher)
        self.started.append(process)
        return process

    def cut_off(self) -> None:
        """From now on nothing comes from it and nothing reaches it."""
        if self.namespace:
            _ip("link", "set", f"{self.namespace}-0", "down")
        else:
            self._signal(signal.SIGSTOP)

    def reconnect(self) -> None:
        """As it was before."""
        if self.namespace:
            _ip("link", "set", f"{self.namespace}-0", "up")
        else:
            self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, number)


@dataclass
class Hosts:
    """Some hosts, and the address by which they reach this one."""

    address: str
    each: list[Host]


@contextlib.contextmanager
def hosts(names: Sequence[str]) -> Iterator[Hosts]:
    """Hosts of those names, as separate as this machine allows. What they started is killed at the end."""
    with contextlib.ExitStack() as stack:
        if _may_make_namespaces():
            made = [_namespace(stack, number, name) for number, name in enumerate(names, start=1)]
            found = Hosts(address=OWN_ADDRESS, each=made)
        else:
            found = Hosts(address="127.0.0.1", each=[Host(name, None) for name in names])
        try:
            yield found
        finally:
            for process in (process for host in found.each for process in host.started):
                process.kill()
                process.wait()


def _may_make_namespaces() -> bool:
    if os.geteuid() != 0:
        return False
    probe = f"mo{os.getpid()}p"
    try:
        if subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True).returncode != 0:
            return False
    except FileNotFoundError:
        return False
    _ip("netns", "delete", probe)
    return True


def _namespace(stack: contextlib.ExitStack, number: int, name: str) -> Host:
    """A namespace, a pair of interfaces `…-0` (ours) and `…-1` (its), and a route from it to us."""
    namespace = f"mo{os.getpid() % 100_000}{number}"
    ours, its = f"{namespace}-0", f"{namespace}-1"
    network = f"10.213.87.{4 * number + 4}"
    prefix = network.rpartition(".")[0]
    last = int(network.rpartition(".")[2])
    _ip("netns", "add", namespace)
    stack.callback(_ip, "netns", "delete", namespace)
    _ip("link", "add", ours, "type", "veth", "peer", "name", its, "netns", namespace)
    _ip("address", "add", f"{prefix}.{last + 1}/30", "dev", ours)
    _ip("address", "add", f"{OWN_ADDRESS}/32", "dev", ours)
    _ip("link", "set", ours, "up")
    inside = ("-n", namespace)
    _ip(*inside, "address", "add", f"{prefix}.{last + 2}/30", "dev", its)
    _ip(*inside, "link", "set", its, "up")
    _ip(*inside, "link", "set", "lo", "up")
    _ip(*inside, "route", "add", "default", "via", f"{prefix}.{last + 1}")
    return Host(name, namespace)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
