"""TLS is verified, STARTTLS never falls back, and what was injected before it is not believed."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from mail_orchestration.egress.relay import Relay, TlsMode
from mail_orchestration.kernel.errors import RelayUnreachable
from tests.scenarios.relays.messages import delivered, message, plain_messages, run_on_both_loops
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to
from tests.scenarios.relays.tls import Authority, Inbox, aiosmtpd_relay, private_authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return private_authority(tmp_path_factory.mktemp("authority"))


def aiosmtpd_at(port: int, authority: Authority, **more: object) -> Relay:
    settings: dict[str, object] = {"host": "127.0.0.1", "tls": TlsMode.STARTTLS, "ca_file": authority.ca_file}
    return Relay(name="aiosmtpd", port=port, **{**settings, **more})  # type: ignore[arg-type]


@pytest.mark.rule("6.8")
def test_starttls_with_aiosmtpd(authority: Authority) -> None:
    inbox = Inbox()
    with aiosmtpd_relay(inbox, tls_context=authority.server, require_starttls=True) as port:
        done = uvloop.run(delivered(plain_messages(20), [aiosmtpd_at(port, authority)], connections=3))
    assert done.tally == {"accepted": 20}
    assert len(inbox.recipients) == len(set(inbox.recipients)) == 20
    assert all(inbox.encrypted)


@pytest.mark.rule("6.8")
@pytest.mark.parametrize("server_name", [None, "localhost"])
def test_tls_from_the_first_octet_with_a_large_body(authority: Authority, server_name: str | None) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(tls=authority.server) as server:
            relay = relay_to(server, tls=TlsMode.IMPLICIT, ca_file=authority.ca_file, server_name=server_name)
            big = b"Subject: big\r\n\r\n" + (b"x" * 98 + b"\r\n") * 50_000
            done = await delivered([*plain_messages(20), message(21, "big@x.example", data=big)], [relay])
            assert done.tally == {"accepted": 21}
            assert server.accepted.total() == 21
            assert server.data["big@x.example"] == big

    run_on_both_loops(scenario)


async def refused(server: ScriptedRelay, **settings: object) -> str:
    """The reason for which nothing at all is delivered."""
    with pytest.raises(RelayUnreachable) as raised:
        await delivered(plain_messages(5), [relay_to(server, **settings)], unreachable_after_s=0.2)  # type: ignore[arg-type]
    assert not server.accepted
    assert not server.commands("MAIL")
    return str(raised.value)


@pytest.mark.rule("6.8")
def test_starttls_that_is_not_offered_is_not_done_without() -> None:
    async def scenario() -> None:
        async with ScriptedRelay() as server:
            assert "STARTTLS is required" in await refused(server, tls=TlsMode.STARTTLS)

    run_on_both_loops(scenario)


@pytest.mark.rule("6.8")
@pytest.mark.parametrize("tls", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
def test_a_certificate_of_an_unknown_authority_is_refused(authority: Authority, tls: TlsMode) -> None:
    async def scenario() -> None:
        implicit = tls is TlsMode.IMPLICIT
        script = Script(starttls=None if implicit else authority.server)
        async with ScriptedRelay(script, tls=authority.server if implicit else None) as server:
            assert "certificate does not verify" in await refused(server, tls=tls)

    run_on_both_loops(scenario)


@pytest.mark.rule("6.8")
@pytest.mark.parametrize("tls", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
def test_a_certificate_for_another_name_is_refused(authority: Authority, tls: TlsMode) -> None:
    async def scenario() -> None:
        implicit = tls is TlsMode.IMPLICIT
        script = Script(starttls=None if implicit else authority.stranger)
        async with ScriptedRelay(script, tls=authority.stranger if implicit else None) as server:
            why = await refused(server, tls=tls, ca_file=authority.ca_file)
            assert "certificate does not verify" in why

    run_on_both_loops(scenario)


@pytest.mark.rule("6.8")
def test_plain_text_behind_the_reply_to_starttls_is_refused(authority: Authority) -> None:
    async def scenario() -> None:
        script = Script(starttls=authority.server, inject_behind_starttls=b"250 2.0.0 injected\r\n")
        async with ScriptedRelay(script) as server:
            why = await refused(server, tls=TlsMode.STARTTLS, ca_file=authority.ca_file)
            assert "injected" in why or "TLS" in why

    run_on_both_loops(scenario)


@pytest.mark.rule("5.7")
def test_a_drop_after_the_dot_under_tls_is_uncertain(authority: Authority, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(starttls=authority.server)) as server:
            relay = relay_to(server, tls=TlsMode.STARTTLS, ca_file=authority.ca_file)
            messages = [message(1, "drop-at-dot@x.example"), message(2, "b@x.example")]
            done = await delivered(messages, [relay])
            assert done.tally == {"uncertain": 1, "accepted": 1}
            assert server.accepted == {"b@x.example": 1}

    run_on_both_loops(scenario)
