"""With keys in the settings every message is signed, and what a relay receives is verified: releases and their retries,
single mails, trial sends (2.6)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import yaml

from mail_orchestration.installation import Installation
from mail_orchestration.kernel.attempts import Outcome
from mail_orchestration.kernel.dkim_keys import Algorithm
from mail_orchestration.mailcaster import run_shift
from mail_orchestration.preview import preview_message
from mail_orchestration.preview import test_send as send_test
from mail_orchestration.single_mailer import SingleMail, run_loose_shift, submit
from tests.dkim_world import private_key, section, verdicts
from tests.scenarios.installations import now, opened, released, tally, write_site
from tests.scenarios.relays.beside import relay_beside
from tests.scenarios.relays.scripted import ScriptedRelay

HTML = """<html><body><p>Dear {{ name }} – this is number {{ number }}.</p>
.
..two dots, and a long line: {{ "many words " * 200 }}
<p><a href="{{ unsubscribe_url }}">no more of these</a></p></body></html>


"""
TEXT = "Dear {{ name }},   \n.\n.. this is number {{ number }}.\n\nFrom us \n\n\n\n"


def signed_site(folder: Path, server: ScriptedRelay, **campaign: object) -> Path:
    """Settings that name a key of each kind, one of them in the environment, of the domain above that of From."""
    settings = write_site(
        folder,
        relay_port=server.port,
        contacts=4,
        campaign={
            "from": "Jörg, at the post <post@news.example.org>",
            "subject": "{{ name }} – ü",
            "sample_contact": {"name": "Zoë", "number": 0},
            **campaign,
        },
        dispatcher={"retry_after_minutes": 0.0001},
        html=HTML,
    )
    (folder / "campaigns" / "letter" / "message.txt.j2").write_text(TEXT, encoding="utf-8")
    for algorithm in Algorithm:
        section(folder, "example.org", algorithm, private_key(algorithm))
    described = yaml.safe_load(settings.read_text(encoding="utf-8"))
    described["dkim"] = [
        {"domain": "example.org", "selector": "rsa", "key": "rsa.pem"},
        {"domain": "example.org", "selector": "ed25519", "key_variable": "NEWS_KEY"},
        {"domain": "example.com", "selector": "rsa", "key": "rsa.pem"},
    ]
    settings.write_text(yaml.safe_dump(described), encoding="utf-8")
    return settings


def as_received(data: bytes) -> bytes:
    """What a server hands on: without the dots that were doubled on the way (RFC 5321 §4.5.2)."""
    return b"".join(line[line.startswith(b".") :] for line in data.splitlines(keepends=True))


def verified(inst: Installation, message: bytes) -> list[bool]:
    assert message.startswith(b"DKIM-Signature: v=1; a=rsa-sha256")
    return verdicts(message, [each for each in inst.dkim_keys if each.domain == "example.org"])


@pytest.mark.rule("2.6")
def test_what_a_relay_receives_is_verified_and_retries_are_the_same_octets(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEWS_KEY", private_key(Algorithm.ED25519))
    greylisted = "once-451-at-dot-4-7-1@example.net"
    with relay_beside() as server:
        settings = signed_site(tmp_path, server)
        with (tmp_path / "everybody.csv").open("a", encoding="utf-8") as csv:
            csv.write(f"{greylisted},Zoë ,5\n")
        with opened(settings, database_url, monkeypatch) as inst:
            release_id = released(inst)
            run_shift(inst, "m1", stop=threading.Event())
            run_loose_shift(inst, "s1", stop=threading.Event())
            assert tally(inst, release_id).accepted == 5
            assert sorted(server.data) == sorted([greylisted, *(f"r{n}@example.net" for n in range(1, 5))])
            for data in server.data.values():
                message = as_received(data)
                assert verified(inst, message) == [True, True]
                assert verified(inst, message.replace(b"this is", b"this was")) == [False, False]
    first, second = server.received[greylisted]
    assert first == second


@pytest.mark.rule("2.6")
def test_single_mails_trials_and_previews_are_signed(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEWS_KEY", private_key(Algorithm.ED25519))
    with relay_beside() as server:
        settings = signed_site(tmp_path, server)
        with opened(settings, database_url, monkeypatch) as inst:
            folder = tmp_path / "campaigns" / "letter"
            (result,) = send_test(inst, folder, ["boss@example.net"], now=now())
            assert result.outcome is Outcome.ACCEPTED
            submit(
                inst,
                SingleMail(campaign="letter", to="ann@example.net", attributes={"name": "Ann", "number": 1}),
            )
            run_loose_shift(inst, "s1", stop=threading.Event())
            assert sorted(server.data) == ["ann@example.net", "boss@example.net"]
            received = [as_received(data) for data in server.data.values()]
            for message in (*received, preview_message(inst, folder).data):
                assert verified(inst, message) == [True, True]


@pytest.mark.rule("2.6")
def test_a_domain_without_a_key_is_sent_unsigned(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEWS_KEY", private_key(Algorithm.ED25519))
    with relay_beside() as server:
        settings = signed_site(tmp_path, server, **{"from": "post@example.net"})
        with opened(settings, database_url, monkeypatch) as inst:
            preview = preview_message(inst, tmp_path / "campaigns" / "letter")
    assert b"DKIM-Signature" not in preview.data
    assert any("no key for example.net" in each.message for each in preview.findings)
