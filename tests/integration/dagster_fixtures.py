"""A small installation for the tests of Dagster's layer: settings, two overlapping audiences, a campaign, a relay."""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from assets.mail_system import MailSystem
from assets.partitions import MAIL_JOBS, add_keys, partition_key_of
from mail_orchestration.broadcast import (
    assemble_release,
    fill_audience,
    queue_release,
    release_campaign,
    resolve_release,
)
from mail_orchestration.installation import Installation
from mail_orchestration.kernel.clock import utc_now
from schedules.definitions import defs

SECRETS = "k1:" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()

CAMPAIGN: dict[str, Any] = {
    "name": "hello",
    "subject": "Hello {{ first_name }}",
    "from": "Us <us@example.org>",
    "audiences": ["members", "friends"],
    "required_attributes": ["first_name"],
}


class StoringRelay:
    """Accepts everything, and keeps who got what."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """aiosmtpd's hook."""
        assert isinstance(envelope.content, bytes)
        self.received.extend((address, envelope.content) for address in envelope.rcpt_tos)
        return "250 2.0.0 kept"

    @property
    def recipients(self) -> list[str]:
        """Envelope recipients, one for each message, sorted."""
        return sorted(address for address, _ in self.received)

    def subject_of(self, address: str) -> str:
        """The subject of the one message to `address`."""
        [content] = [content for to, content in self.received if to == address]
        return str(email.message_from_bytes(content, policy=email.policy.default)["Subject"])


@contextlib.contextmanager
def storing_relay() -> Iterator[tuple[StoringRelay, int]]:
    """A relay on a free port of the loopback interface, and that port."""
    kept = StoringRelay()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    controller = Controller(kept, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield kept, port
    finally:
        controller.stop(no_assert=True)


@dataclass
class World:
    """The installation's folder, and Dagster on it."""

    folder: Path
    instance: dg.DagsterInstance
    settings: dict[str, Any]
    mail: MailSystem = field(init=False)

    def __post_init__(self) -> None:
        self.mail = MailSystem(self.settings_file)

    @property
    def settings_file(self) -> Path:
        return self.folder / "mail_orchestration.yaml"

    def write_settings(self, **changes: Any) -> None:
        """Change top-level keys of the settings file."""
        self.settings |= changes
        self.settings_file.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    def write_audience(self, name: str, numbers: Sequence[int], *, more: Sequence[str] = ()) -> None:
        """A CSV of contacts person1@ … with first names, and further lines as they are."""
        lines = [f"person{number}@example.net,Zoë {number}" for number in numbers]
        text = "\n".join(["email,first_name", *lines, *more])
        (self.folder / f"{name}.csv").write_text(text, encoding="utf-8")

    def write_campaign(self, **changes: Any) -> None:
        """The campaign in campaigns/hello."""
        folder = self.folder / "campaigns" / "hello"
        folder.mkdir(parents=True, exist_ok=True)
        definition = yaml.safe_dump(CAMPAIGN | changes, allow_unicode=True)
        (folder / "campaign.yaml").write_text(definition, encoding="utf-8")
        (folder / "message.html.j2").write_text(
            '<p>Dear {{ first_name }}</p><a href="{{ unsubscribe_url }}">no more</a>', encoding="utf-8"
        )

    def run(
        self,
        job: str,
        *,
        partition_key: str | None = None,
        config: Mapping[str, Any] | None = None,
        must_succeed: bool = True,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job of the definitions in this process."""
        result = defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=partition_key,
            run_config={"ops": config} if config else None,
            resources={"mail": self.mail},
            raise_on_error=False,
            tags=dict(tags or {}),
        )
        if must_succeed:
            assert result.success, failure_of(result)
        return result

    def release(self, occurrence: str = "") -> str:
        """Import the audiences and release the campaign; returns its partition key."""
        installation = self.mail.shared()
        for name in ("members", "friends"):
            fill_audience(installation, name, now=utc_now())
        folder = self.folder / "campaigns" / "hello"
        released = release_campaign(installation, folder, now=utc_now(), occurrence=occurrence)
        add_keys(self.instance, MAIL_JOBS, [released.release_id])
        return partition_key_of(released.release_id)

    def assembled(self) -> str:
        """A release with all its messages."""
        key = self.release()
        resolve_release(self.mail.shared(), int(key), now=utc_now())
        assemble_release(self.mail.shared(), int(key), now=utc_now())
        return key

    def queued(self) -> str:
        """A release that waits in the global queue."""
        key = self.assembled()
        queue_release(self.mail.shared(), int(key), now=utc_now())
        return key

    @contextlib.contextmanager
    def installation(self) -> Iterator[Installation]:
        """For looking behind Dagster."""
        with self.mail.opened("test") as opened:
            yield opened


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """What the failed step says to the operator."""
    messages = []
    for event in result.filter_events(lambda event: event.is_step_failure):
        data = event.step_failure_data
        user_failure = data.user_failure_data
        messages.append(user_failure.description if user_failure else str(data.error))
    return "\n".join(str(message) for message in messages)


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The metadata of the asset's last materialization in the run, as plain values."""
    [*_, last] = result.asset_materializations_for_node(asset)
    return {key: value.value for key, value in last.metadata.items()}


@pytest.fixture
def dagster_instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's books for one test, in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def world(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dagster_instance: dg.DagsterInstance
) -> Iterator[World]:
    """An empty installation on a fresh database with a campaign to 130 contacts, and a temporary Dagster instance."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("MAIL_ORCHESTRATION_SIGNING_KEYS", SECRETS)
    monkeypatch.setattr("schedules.lookout.LOOK_ON_FOR_S", 0.0)
    created = World(folder=tmp_path, instance=dagster_instance, settings={})
    created.write_settings(
        installation="test",
        dispatcher={"small_audience_threshold": 100, "assembly_processes": 1},
        relays=[{"name": "local", "host": "127.0.0.1", "port": 9, "tls": "none"}],
        mailcasters=[
            {"name": "large", "min_job_size": 50, "max_job_size": 120, "percentage_job_size": 10},
            {"name": "small", "small_job_only": True, "min_job_size": 1, "max_job_size": 50},
        ],
        audiences=[
            {"name": "members", "csv": "members.csv"},
            {"name": "friends", "csv": "friends.csv"},
        ],
    )
    created.write_audience("members", range(1, 101), more=["no address at all,Max"])
    created.write_audience("friends", range(71, 131))
    created.write_campaign()
    try:
        yield created
    finally:
        created.mail.close()


@pytest.fixture
def relay(world: World) -> Iterator[StoringRelay]:
    """A relay that the world's mailcasters deliver to."""
    with storing_relay() as (kept, port):
        world.write_settings(relays=[{"name": "local", "host": "127.0.0.1", "port": port, "tls": "none"}])
        yield kept
