"""AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, and XOAUTH2 for relays that want an access token."""

from __future__ import annotations

from base64 import b64encode
from typing import assert_never

from mail_orchestration.egress.faults import RelayUnusable, without_addresses
from mail_orchestration.egress.relay import AuthMechanism, Relay
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.wire import Wire
from mail_orchestration.kernel.secret import Secret


async def authenticate(
    wire: Wire, relay: Relay, username: str, password: Secret[str], offered: frozenset[str]
) -> None:
    """Log in. Raises RelayUnusable when the relay offers no fitting mechanism or refuses."""
    mechanism = chosen_mechanism(relay.auth, offered)
    secret = password.reveal()
    match mechanism:
        case AuthMechanism.PLAIN:
            lines = [b"AUTH PLAIN " + _base64(f"\0{username}\0{secret}")]
        case AuthMechanism.LOGIN:
            lines = [b"AUTH LOGIN", _base64(username), _base64(secret)]
        case AuthMechanism.XOAUTH2:
            lines = [b"AUTH XOAUTH2 " + _base64(f"user={username}\x01auth=Bearer {secret}\x01\x01")]
        case _:
            assert_never(mechanism)
    reply = await _say(wire, relay, lines)
    if reply.is_intermediate and mechanism is AuthMechanism.XOAUTH2:
        # The error comes as a challenge; the refusal itself follows upon an empty answer.
        reply = await _say(wire, relay, [b""])
    if not reply.is_positive:
        raise RelayUnusable(
            f"authentication refused: {_without_secrets(str(reply), username, secret, lines)}"
        )


def chosen_mechanism(wanted: AuthMechanism | None, offered: frozenset[str]) -> AuthMechanism:
    """The mechanism to use: the wanted one, else the best offered that takes a password."""
    candidates = (AuthMechanism.PLAIN, AuthMechanism.LOGIN) if wanted is None else (wanted,)
    for mechanism in candidates:
        if mechanism.value in offered:
            return mechanism
    names = " or ".join(mechanism.value for mechanism in candidates)
    raise RelayUnusable(f"the relay does not offer AUTH {names}")


async def _say(wire: Wire, relay: Relay, lines: list[bytes]) -> Reply:
    for said, line in enumerate(lines, start=1):
        wire.write(line + b"\r\n")
        reply = await wire.reply(relay.timeouts.authentication_s)
        if said == len(lines) or not reply.is_intermediate:
            break
    return reply


def _without_secrets(text: str, username: str, secret: str, lines: list[bytes]) -> str:
    # A relay may echo what it refuses.
    for hidden in sorted((secret, username, *(line.rpartition(b" ")[2].decode() for line in lines)), key=len):
        if len(hidden) > 3 and hidden != AuthMechanism.LOGIN.value:
            text = text.replace(hidden, "…")
    return without_addresses(text)


def _base64(text: str) -> bytes:
    return b64encode(text.encode())
