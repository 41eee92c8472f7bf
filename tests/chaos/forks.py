"""A process that has imported everything once and forks the workers: an import costs a second, a fork milliseconds.

Orders go to it and starts and ends come back as packets of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mail_orchestration.cli.child import PR_SET_PDEATHSIG, prctl

CLONE_NEWNET = 0x40000000
PACKET = 65536


@dataclass
class Worker:
    """One forked process."""

    pid: int
    role: str
    name: str
    more: dict[str, Any]
    on_end: Callable[[Worker], None] | None = None
    status: int | None = None
    """As `os.waitstatus_to_exitcode` gives it, once it has ended."""

    @property
    def is_alive(self) -> bool:
        """As far as was heard."""
        return self.status is None

    @property
    def introduces_itself_as(self) -> str:
        """What the relay hears from it, if it is a mailcaster."""
        return f"{self.name}-{self.pid}"

    def signal(self, number: int) -> bool:
        """Send it; False when it has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
                return True
        return False


class Forks:
    """The parent's end. Call `poll` often: it tells of ends."""

    def __init__(self, folder: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.forks", str(folder), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.workers: dict[int, Worker] = {}
        self._ends: deque[dict[str, Any]] = deque()
        self._hear()  # that everything is imported

    def fork(
        self,
        role: str,
        name: str,
        *,
        netns: str = "",
        on_end: Callable[[Worker], None] | None = None,
        **more: Any,
    ) -> Worker:
        """A new worker. `netns` is the network namespace that it lives in."""
        self._socket.send(json.dumps({"role": role, "name": name, "netns": netns, "more": more}).encode())
        while "pid" not in (said := self._hear()):
            # Told of by the next poll: who hears of an end may fork in turn.
            self._ends.append(said)
        worker = Worker(pid=said["pid"], role=role, name=name, more=more, on_end=on_end)
        self.workers[worker.pid] = worker
        return worker

    def poll(self, seconds: float = 0.0) -> None:
        """Wait so long for ends, and tell of them."""
        while self._ends or select.select([self._socket], [], [], seconds)[0]:
            self._note_end(self._ends.popleft() if self._ends else self._hear())
            seconds = 0.0

    def stop(self) -> None:
        """Whoever still works is killed with the process that forked it."""
        self._socket.close()
        self._process.wait()

    def _hear(self) -> dict[str, Any]:
        packet = self._socket.recv(PACKET)
        if not packet:
            raise RuntimeError("the process that forks the workers has ended")
        said: dict[str, Any] = json.loads(packet)
        return said

    def _note_end(self, said: dict[str, Any]) -> None:
        worker = self.workers.pop(said["ended"])
        worker.status = said["status"]
        if worker.on_end is not None:
            worker.on_end(worker)


def serve(folder: Path, orders: socket.socket) -> None:
    """Fork what is ordered and tell of every end, until the other end is closed."""
    from tests.chaos import roles

    gc.collect()
    gc.freeze()
    told, tell = os.pipe()
    os.set_blocking(told, False)
    os.set_blocking(tell, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tell)
    orders.send(b'{"ready": true}')
    while True:
        ready = select.select([orders, told], [], [])[0]
        if told in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(told, PACKET)
        # Orders first, so that a start is told before its end.
        if orders in ready:
            packet = orders.recv(PACKET)
            if not packet:
                return
            order = json.loads(packet)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (orders.fileno(), told, tell):
                    os.close(fd)
                os._exit(_become(folder, order, roles.work))
            orders.send(json.dumps({"pid": pid}).encode())
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = os.waitstatus_to_exitcode(ended[1])
                orders.send(json.dumps({"ended": ended[0], "status": status}).encode())


def _become(folder: Path, order: dict[str, Any], work: Callable[..., int]) -> int:
    """The child: a worker in a process group of its own, which ends with the one that forked it."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)
        if order["netns"]:
            with Path(f"/run/netns/{order['netns']}").open("rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
        return work(folder, order["role"], order["name"], order["more"])
    except BaseException as error:
        print(f"{order}: {error!r}", file=sys.stderr)
        return 71
    finally:
        # What the interpreter would do at its end and os._exit does not: threads' and servers' last words.
        with contextlib.suppress(Exception):
            sys.stderr.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
