"""One session of the scripted relay: it takes mail, or misbehaves as the address or the script asks it to."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from base64 import b64decode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scenarios.relays.scripted import ScriptedRelay


class Drop(Exception):
    """The connection is to be dropped."""


class Talk:
    """What is heard and said on one connection."""

    def __init__(
        self, relay: ScriptedRelay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.relay, self.script = relay, relay.script
        self.reader, self.writer = reader, writer
        self.encrypted = False
        self.sender: str | None = None
        self.recipient: str | None = None
        self.recipient_stands = False

    async def say(self, text: str) -> None:
        if self.script.reply_delay_s:
            await asyncio.sleep(self.script.reply_delay_s)
        self.writer.write(text.encode() + b"\r\n")
        await self.writer.drain()

    async def hear(self) -> str:
        line = await self.reader.readuntil(b"\n")
        text = line.decode().rstrip("\r\n")
        self.relay.heard.append((asyncio.get_running_loop().time(), text))
        return text

    async def run(self) -> None:
        if not await self.stumble("greeting"):
            await self.say(self.script.greeting)
        while True:
            command = await self.hear()
            verb = command.split(" ")[0].upper()
            if await self.stumble(verb.lower()):
                continue
            match verb:
                case "EHLO" if self.script.knows_ehlo:
                    lines = ["scripted", *self.script.extensions]
                    if self.script.starttls and not self.encrypted:
                        lines.append("STARTTLS")
                    await self.say("\r\n".join(f"250-{line}" for line in lines[:-1]) + f"\r\n250 {lines[-1]}")
                case "HELO":
                    await self.say("250 scripted")
                case "STARTTLS" if self.script.starttls:
                    self.writer.write(b"220 go on\r\n" + self.script.inject_behind_starttls)
                    await self.writer.drain()
                    await self.writer.start_tls(self.script.starttls)
                    self.encrypted = True
                case "AUTH":
                    await self.authenticate(command)
                case "MAIL" | "RCPT" | "DATA":
                    await self.transaction(verb, command)
                case "RSET":
                    self.sender = self.recipient = None
                    await self.say("250 2.0.0 forgotten")
                case "QUIT":
                    await self.say("221 2.0.0 bye")
                    return
                case _:
                    await self.say("502 5.5.1 what?")

    async def authenticate(self, command: str) -> None:
        _, mechanism, *initial = command.split(" ")
        if mechanism == "LOGIN":
            await self.say("334 VXNlcm5hbWU6")
            user = b64decode(await self.hear()).decode()
            await self.say("334 UGFzc3dvcmQ6")
            password = b64decode(await self.hear()).decode()
        elif mechanism == "XOAUTH2":
            found = re.fullmatch("user=(.*)\x01auth=Bearer (.*)\x01\x01", b64decode(initial[0]).decode())
            assert found
            user, password = found.groups()
        else:
            _, user, password = b64decode(initial[0]).decode().split("\0")
        if user == "user" and password == self.script.password:
            await self.say("235 2.7.0 welcome")
            return
        if mechanism == "XOAUTH2":
            await self.say("334 eyJzdGF0dXMiOiI0MDEifQ==")
            assert await self.hear() == ""
        await self.say(f"535 5.7.8 no such thing as {user} with {password} or {(initial or ['?'])[0]}")

    async def transaction(self, verb: str, command: str) -> None:
        path = re.search("<(.*?)>", command)
        if verb == "MAIL":
            assert path
            if self.sender is not None:
                await self.say("503 5.5.1 nested MAIL")
                return
            self.sender, self.recipient, self.recipient_stands = path[1], None, False
        elif self.sender is None:
            await self.say("503 5.5.1 no sender")
            return
        elif verb == "RCPT":
            assert path
            self.recipient = path[1]
        steering = (self.sender if verb == "MAIL" else self.recipient or "") or ""
        local = steering.partition("@")[0]
        if verb != "DATA":
            self.relay.tries[local] += 1
        if verb == "DATA" and not self.recipient_stands and "354" not in local:
            await self.say("503 5.5.1 no recipient")
            return
        if verb == "RCPT" and self.relay.deferred < self.script.defers_first:
            self.relay.deferred += 1
            await self.say("451 4.3.2 nobody, for a while")
            return
        if verb == "MAIL" and (trouble := self.script.at_mail) is not None:
            self.sender = None
            await self.say(trouble)
            if trouble.startswith("421"):
                raise Drop
            return
        if await self.misbehave(local, verb.lower()):
            if verb == "MAIL":
                self.sender = None
            return
        if verb == "MAIL":
            await self.say("250 2.1.0 sender fine")
        elif verb == "RCPT":
            self.recipient_stands = True
            await self.say("250 2.1.5 recipient fine")
        else:
            await self.body(local)

    async def body(self, local: str) -> None:
        await self.say("354 go on")
        if local.startswith("early-"):
            await self.reader.read(1000)
            await self.say(local.split("-")[1] + " 5.3.4 that is enough")
            await asyncio.sleep(0.2)
            raise Drop
        lines: list[bytes] = []
        while (line := await self.reader.readuntil(b"\n")) != b".\r\n":
            lines.append(line)
            if local.startswith("drop-in-body"):
                raise Drop
        recipient, stands = self.recipient or "", self.recipient_stands
        self.sender = self.recipient = None
        if not stands:
            await self.say("554 5.5.1 no valid recipients")
            return
        self.relay.received.setdefault(recipient, []).append(b"".join(lines))
        if await self.misbehave(local, "dot"):
            return
        self.relay.take(recipient, b"".join(lines))
        self.relay.unanswered += 1
        while self.relay.is_silent:
            await asyncio.sleep(0.01)
        self.relay.unanswered -= 1
        await self.say("250 2.0.0 taken")

    async def misbehave(self, local: str, where: str) -> bool:
        """Do what the local part asks for at `where`. Returns whether the command has had its reply."""
        asked = re.match(rf"(once-)?([a-z]+|\d{{3}})-at-{where}(?:-|$)(\d-\d-\d+)?", local)
        if not asked or (asked[1] and self.relay.tries[local] > 1):
            return False
        await self.do(asked[2], (asked[3] or "").replace("-", "."))
        return True

    async def stumble(self, step: str) -> bool:
        """Do what the script has for this step, if it has something left. Returns whether it had."""
        left = self.script.once.get(step)
        if not left:
            return False
        await self.do(left.pop(0))
        return True

    async def do(self, what: str, enhanced: str = "") -> None:
        """Misbehave in this way, or answer with this code."""
        match what:
            case "drop":
                raise Drop
            case "half":
                self.writer.write(b"250-2.0.0 one line of two\r\n250 2.0.0 and h")
                await self.writer.drain()
                self.writer.close()
                await self.writer.wait_closed()
                raise Drop
            case "flood":
                await self.say_in_vain(b"x" * 65_536)
            case "chatter":
                await self.say_in_vain(b"250 2.0.0 and again\r\n" * 3_000)
            case "tear":
                raw = self.writer.get_extra_info("socket")
                with socket.socket(fileno=os.dup(raw.fileno())) as naked:
                    naked.send(b"250 2.0.0 in plain text\r\n")
                await asyncio.sleep(0.3)
                raise Drop
            case "reset":
                raw = self.writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise Drop
            case "silence":
                await asyncio.sleep(60)
            case "trickle":
                for octet in b"250 2.0.0 slowly, slowly, slowly, slowly, slowly":
                    self.writer.write(bytes([octet]))
                    await asyncio.sleep(0.03)
            case "malformed":
                await self.say("hello, how do you do?")
            case "huge":
                await self.say("\r\n".join(["250-" + "x" * 500] * 200))
            case "twice":
                await self.say("250 2.0.0 once\r\n250 2.0.0 twice")
            case code:
                await self.say(f"{code} {enhanced or f'{code[0]}.0.0'} as asked for by the address")
                if code == "421":
                    raise Drop

    async def say_in_vain(self, octets: bytes) -> None:
        """Say this again and again, a gigabyte of it, until the client has enough."""
        while self.relay.octets_said_in_vain < 2**30:
            if self.writer.transport.is_closing():
                raise Drop
            self.writer.write(octets)
            await self.writer.drain()
            # Under TLS, drain alone does not let the loop tell that the client went.
            await asyncio.sleep(0)
            self.relay.octets_said_in_vain += len(octets)
