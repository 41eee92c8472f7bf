"""How a session begins: connection, greeting, EHLO, STARTTLS, AUTH. No message is to blame for a fault here.

RFC 5321 §3.1 and §3.2, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 8314 (implicit TLS).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass, replace

from mail_orchestration.egress.authentication import authenticate
from mail_orchestration.egress.faults import ConversationBroken, RelayUnusable, without_addresses
from mail_orchestration.egress.relay import Relay, TlsMode
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.wire import Wire
from mail_orchestration.kernel.errors import BadSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """What the relay offers in its answer to EHLO."""

    pipelining: bool = False
    eight_bit_mime: bool = False
    smtputf8: bool = False
    starttls: bool = False
    size_offered: bool = False
    largest_octets: int | None = None
    """None where the relay names no limit (RFC 1870)."""
    mechanisms: frozenset[str] = frozenset()


def extensions_of(hello: Reply) -> Extensions:
    """Read the answer to EHLO (RFC 5321 §4.1.1.1). Unknown keywords are passed over."""
    found = Extensions()
    for line in hello.text.split("\n")[1:]:
        keyword, *parameters = re.split(r"[ =]+", line.strip().upper())
        match keyword:
            case "PIPELINING":
                found = replace(found, pipelining=True)
            case "8BITMIME":
                found = replace(found, eight_bit_mime=True)
            case "SMTPUTF8":
                found = replace(found, smtputf8=True)
            case "STARTTLS":
                found = replace(found, starttls=True)
            case "SIZE":
                limit = int(parameters[0]) if parameters and parameters[0].isdecimal() else 0
                found = replace(found, size_offered=True, largest_octets=limit or None)
            case "AUTH":
                found = replace(found, mechanisms=found.mechanisms | frozenset(parameters))
            case _:
                pass
    return found


def tls_context(relay: Relay) -> ssl.SSLContext | None:
    """The relay's TLS settings: 1.2 or newer, certificate and host name verified. Raises BadSettings."""
    if relay.tls is TlsMode.NONE:
        return None
    try:
        context = ssl.create_default_context(cafile=relay.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BadSettings(f"relay {relay.name!r}: ca_file holds no certificates: {relay.ca_file}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def open_wire(relay: Relay, context: ssl.SSLContext | None) -> tuple[Wire, Extensions]:
    """Set up a session to where MAIL may be said. Raises RelayUnusable; its reason holds no secret."""
    wire = await _connect(relay, context)
    try:
        extensions = await _introduce(wire, relay, context)
    except ConversationBroken as error:
        wire.break_off("set-up failed")
        raise RelayUnusable(str(error)) from error
    except BaseException:
        wire.break_off("set-up failed")
        raise
    return wire, extensions


async def _connect(relay: Relay, context: ssl.SSLContext | None) -> Wire:
    loop = asyncio.get_running_loop()
    wire = Wire()
    limits = relay.timeouts
    try:
        async with asyncio.timeout(limits.connect_s + (limits.tls_handshake_s if context else 0.0)):
            if relay.tls is TlsMode.IMPLICIT:
                await loop.create_connection(
                    lambda: wire,
                    relay.host,
                    relay.port,
                    ssl=context,
                    server_hostname=relay.server_name or relay.host,
                    ssl_handshake_timeout=limits.tls_handshake_s,
                )
            else:
                await loop.create_connection(lambda: wire, relay.host, relay.port)
    except (OSError, ssl.SSLError, TimeoutError) as error:
        wire.break_off("set-up failed")
        raise RelayUnusable(_why(error)) from error
    except BaseException:
        wire.break_off("set-up failed")
        raise
    return wire


async def _introduce(wire: Wire, relay: Relay, context: ssl.SSLContext | None) -> Extensions:
    greeting = await wire.reply(relay.timeouts.greeting_s)
    if not greeting.is_positive:
        raise RelayUnusable(f"greeted with {without_addresses(str(greeting))}", greeting)
    extensions = await _say_hello(wire, relay)
    if relay.tls is TlsMode.STARTTLS and context is not None:
        if not extensions.starttls:
            raise RelayUnusable("STARTTLS is required and the relay does not offer it")
        await _start_tls(wire, relay, context)
        # RFC 3207 §4.2: forget what was said before, it was not protected.
        extensions = await _say_hello(wire, relay)
    if relay.username is not None and relay.password is not None:
        if not (context is not None or relay.allow_plaintext_auth or _is_loopback(wire.peer_address())):
            raise RelayUnusable("authentication without TLS is not allowed (allow_plaintext_auth)")
        await authenticate(wire, relay, relay.username, relay.password, extensions.mechanisms)
    if not wire.is_quiet:
        raise ConversationBroken(wire.lost or "the relay talks out of turn")
    return extensions


async def _say_hello(wire: Wire, relay: Relay) -> Extensions:
    name = relay.helo_name or _own_name(wire)
    if not wire.is_quiet:
        raise ConversationBroken(wire.lost or "the relay talks before EHLO")
    wire.write(f"EHLO {name}\r\n".encode("ascii"))
    reply = await wire.reply(relay.timeouts.hello_s)
    if reply.is_positive:
        return extensions_of(reply)
    if reply.is_permanent:
        # RFC 5321 §3.2: an old server that does not know EHLO is asked again with HELO.
        wire.write(f"HELO {name}\r\n".encode("ascii"))
        reply = await wire.reply(relay.timeouts.hello_s)
        if reply.is_positive:
            return Extensions()
    raise RelayUnusable(f"answered EHLO with {without_addresses(str(reply))}", reply)


async def _start_tls(wire: Wire, relay: Relay, context: ssl.SSLContext) -> None:
    wire.write(b"STARTTLS\r\n")
    reply = await wire.reply(relay.timeouts.hello_s)
    if not reply.is_positive:
        raise RelayUnusable(f"answered STARTTLS with {without_addresses(str(reply))}")
    if not wire.is_quiet:
        # Plain text behind the 220 was put there to be taken for protected replies (CVE-2011-0411).
        raise RelayUnusable("plain text was injected behind the reply to STARTTLS")
    try:
        await wire.start_tls(context, relay.server_name or relay.host, relay.timeouts.tls_handshake_s)
    except (OSError, ssl.SSLError) as error:
        raise RelayUnusable(_why(error)) from error


def _own_name(wire: Wire) -> str:
    name = socket.gethostname()
    if "." in name and re.fullmatch(r"[A-Za-z0-9.\-]+", name):
        return name
    # RFC 5321 §4.1.4: a client without a name gives its address as a literal.
    address = wire.own_address()
    return f"[IPv6:{address}]" if ":" in address else f"[{address or '127.0.0.1'}]"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _why(error: BaseException) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate does not verify: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {error.reason or type(error).__name__}"
        case TimeoutError():
            return "connecting took too long"
        case OSError() if error.strerror:
            return f"cannot connect: {error.strerror}"
        case _:
            return f"cannot connect: {type(error).__name__}"
