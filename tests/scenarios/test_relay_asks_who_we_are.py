"""AUTH: each mechanism, the best offered; a refusal is the relay's, no message's, and tells no secret."""

from __future__ import annotations

import logging

import pytest
import uvloop

from mail_orchestration.egress.relay import AuthMechanism, Relay, Secret, TlsMode
from mail_orchestration.kernel.errors import RelayUnreachable
from tests.scenarios.relays.messages import delivered, plain_messages
from tests.scenarios.relays.scripted import Script, ScriptedRelay, relay_to
from tests.scenarios.relays.tls import Inbox, aiosmtpd_relay, private_authority

ALL = ["PIPELINING", "AUTH PLAIN LOGIN XOAUTH2"]


@pytest.mark.rule("6.8")
@pytest.mark.parametrize("mechanism", [None, *AuthMechanism])
def test_each_mechanism(mechanism: AuthMechanism | None) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=ALL, password="hush-hush")) as server:
            done = await delivered(
                plain_messages(5), [relay_to(server, password="hush-hush", auth=mechanism)]
            )
            assert done.tally == {"accepted": 5}
            assert server.accepted.total() == 5
            assert len(server.commands(f"AUTH {(mechanism or AuthMechanism.PLAIN).value}")) == 1

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
@pytest.mark.parametrize("mechanism", [AuthMechanism.PLAIN, AuthMechanism.LOGIN])
def test_aiosmtpd_over_starttls(mechanism: AuthMechanism, tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = private_authority(tmp_path_factory.mktemp("authority"))
    inbox = Inbox(password="right")
    settings = {"tls_context": authority.server, "authenticator": inbox, "auth_required": True}
    with aiosmtpd_relay(inbox, **settings) as port:
        relay = Relay(
            name="aiosmtpd",
            host="127.0.0.1",
            port=port,
            tls=TlsMode.STARTTLS,
            ca_file=authority.ca_file,
            username="user",
            password=Secret("right"),
            auth=mechanism,
        )
        done = uvloop.run(delivered(plain_messages(5), [relay]))
    assert done.tally == {"accepted": 5}
    assert len(inbox.recipients) == 5
    assert set(inbox.mechanisms) == {mechanism.value}


@pytest.mark.rule("6.8")
@pytest.mark.parametrize("mechanism", [*AuthMechanism])
def test_a_wrong_password_rejects_no_message(
    mechanism: AuthMechanism, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=ALL, password="right")) as server:
            with pytest.raises(RelayUnreachable) as raised:
                await delivered(
                    plain_messages(5),
                    [relay_to(server, password="hush-hush", auth=mechanism)],
                    connections=5,
                    unreachable_after_s=0.3,
                )
            assert not server.commands("MAIL")
            assert "authentication refused: 535 5.7.8" in str(raised.value)
            assert "hush-hush" not in str(raised.value) + caplog.text
            secrets = {command.split(" ")[-1] for command in server.commands("AUTH")} - {"LOGIN"}
            assert not any(secret in str(raised.value) + caplog.text for secret in secrets)
            # One line per back-off, not one per connection.
            warned = [record for record in caplog.records if record.levelno == logging.WARNING]
            assert 0 < len(warned) <= server.sessions

    uvloop.run(scenario())


@pytest.mark.rule("6.8")
def test_no_password_goes_out_for_a_mechanism_that_is_not_offered() -> None:
    async def scenario() -> None:
        async with ScriptedRelay(Script(extensions=["AUTH CRAM-MD5"])) as server:
            with pytest.raises(RelayUnreachable, match="does not offer AUTH PLAIN or LOGIN"):
                await delivered(plain_messages(2), [relay_to(server, password="p")], unreachable_after_s=0.2)
            assert not server.commands("AUTH")

    uvloop.run(scenario())
