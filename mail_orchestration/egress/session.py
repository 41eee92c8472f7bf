"""One SMTP session with a relay: mail transactions, pipelined where the relay offers it (RFC 5321, RFC 2920).

The phases of a transaction, which decide what a lost connection means (spec 5.7):

    begin()        MAIL, RCPT, DATA are on the way      lost: the message is unsent
    answer()       their replies                        lost: the message is unsent
    send_body()    the body, all but the final dot      lost: the message is unsent
                   the final dot (`dot_written`)        lost: uncertain, nobody can know
    final_reply()  the relay's word on the message
"""

from __future__ import annotations

import asyncio
import ssl

from mail_orchestration.egress.content import Refusal, refusal_of_data, refusal_of_paths
from mail_orchestration.egress.faults import ConversationBroken
from mail_orchestration.egress.relay import Relay
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.setup import Extensions, open_wire
from mail_orchestration.egress.verdict import Verdict, verdict_on
from mail_orchestration.egress.wire import Wire
from mail_orchestration.kernel.attempts import OutgoingMessage, Phase
from mail_orchestration.kernel.message_lines import Lines, dot_stuffed

FINAL_DOT = b".\r\n"

BLOCK_OCTETS = 64 * 1024
"""A longer body goes out in blocks, and its final dot only when the kernel has taken all of them."""


class Prepared:
    """A message as it will go onto this session's wire."""

    __slots__ = ("body", "mail", "rcpt")

    def __init__(self, mail: bytes, rcpt: bytes, body: bytes) -> None:
        """`body` is dot-stuffed, and without the final dot."""
        self.mail = mail
        self.rcpt = rcpt
        self.body = body


class Session:
    """One session, past its set-up. Not for two tasks at once."""

    def __init__(self, relay: Relay, wire: Wire, extensions: Extensions) -> None:
        self.relay = relay
        self.wire = wire
        self.extensions = extensions
        self.pipelining = relay.pipelining and extensions.pipelining
        self.dot_written = False
        """Whether the final dot of the latest message may have reached the relay."""
        self.phase = Phase.MAIL
        """Of the relay's last word on a message: the command that it answered."""
        self._needs_rset = False
        self._rset_on_the_way = False
        self.dot_took_s = 0.0
        """How long the relay takes to answer a final dot, by the slowest of the last ones."""
        self._dot_written_at = 0.0
        self._time = asyncio.get_running_loop().time
        self._ends_at = self._time() + relay.session_lifetime_s

    @classmethod
    async def open(cls, relay: Relay, context: ssl.SSLContext | None) -> Session:
        """Connect, greet, encrypt, authenticate. Raises RelayUnusable; no message is to blame."""
        wire, extensions = await open_wire(relay, context)
        return cls(relay, wire, extensions)

    @property
    def is_spent(self) -> bool:
        """Whether the session is too old, or no longer fit, for another transaction."""
        return not self.wire.is_quiet or self._time() >= self._ends_at

    def prepare(self, message: OutgoingMessage) -> Prepared | Refusal:
        """The message in this session's terms, or why it must not or cannot be sent over it."""
        data, lines = message.read()
        refusal = refusal_of_paths(message.reverse_path, message.address)
        if refusal is None and lines is Lines.UNSEEN:
            refusal = refusal_of_data(data)
        if refusal is not None:
            return refusal
        offers = self.extensions
        parameters = ""
        if offers.size_offered:
            octets = len(data)
            if offers.largest_octets is not None and octets > offers.largest_octets:
                return Refusal(
                    "5.3.4", f"the message has {octets} octets, the relay takes {offers.largest_octets}"
                )
            parameters = f" SIZE={octets}"
        if lines is not Lines.PLAIN and not data.isascii():
            if not offers.eight_bit_mime:
                return Refusal("5.6.3", "the message has 8-bit data and the relay does not offer 8BITMIME")
            parameters += " BODY=8BITMIME"
        if not (message.address.isascii() and message.reverse_path.isascii()):
            if not offers.smtputf8:
                return Refusal("5.6.7", "the address is not ASCII and the relay does not offer SMTPUTF8")
            parameters += " SMTPUTF8"
        return Prepared(
            f"MAIL FROM:<{message.reverse_path}>{parameters}\r\n".encode(),
            f"RCPT TO:<{message.address}>\r\n".encode(),
            data if lines is Lines.PLAIN else dot_stuffed(data),
        )

    def begin(self, prepared: Prepared) -> None:
        """Put MAIL, RCPT and DATA on the way as one group; without PIPELINING `answer` says them singly."""
        if self.pipelining:
            self.wire.write(self._group(prepared))

    async def answer(self, prepared: Prepared) -> tuple[Verdict, Reply]:
        """What the relay says to MAIL, RCPT and DATA: GO_ON asks for the body, all else ends the transaction.

        Raises ConversationBroken; the message is unsent then.
        """
        self.dot_written = False
        if (go_on := self._go_on_at_hand()) is not None:
            return Verdict.GO_ON, go_on
        waits = self.relay.timeouts
        if self._rset_on_the_way or (self._needs_rset and not self.pipelining):
            self.phase = Phase.RSET
            reset_verdict, reset = await self._said(Phase.RSET, b"RSET\r\n", waits.rset_s)
            self._needs_rset = self._rset_on_the_way = False
            if reset_verdict is not Verdict.GO_ON:
                return reset_verdict, reset
        self.phase = Phase.MAIL
        verdict, reply = await self._said(Phase.MAIL, prepared.mail, waits.mail_s)
        transaction_open, recipient_stands = verdict is Verdict.GO_ON, False
        if transaction_open:
            self.phase = Phase.RCPT
            verdict, reply = await self._said(Phase.RCPT, prepared.rcpt, waits.rcpt_s)
        elif self._more_follows(verdict):
            rcpt_verdict, _ = await self._said(Phase.RCPT, b"", waits.rcpt_s)
            recipient_stands = rcpt_verdict is Verdict.GO_ON
        if verdict is Verdict.GO_ON:
            self.phase = Phase.DATA
            verdict, reply = await self._said(Phase.DATA, b"DATA\r\n", waits.data_s)
        elif self._more_follows(verdict):
            data_verdict, _ = await self._said(Phase.DATA, b"", waits.data_s)
            if data_verdict is Verdict.GO_ON and recipient_stands:
                self.wire.break_off("the relay would take mail from a sender that it refused")
            elif data_verdict is Verdict.GO_ON:
                # RFC 2920 §3.1: 354 although no recipient stands: send but the dot, and read its reply.
                self.wire.write(FINAL_DOT)
                await self.wire.reply(waits.final_dot_s)
                transaction_open = False
        self._needs_rset = transaction_open and verdict is not Verdict.GO_ON
        return verdict, reply

    async def send_body(self, prepared: Prepared, then: Prepared | None = None) -> None:
        """Send the body and its final dot, and behind them at once the commands of the transaction `then`.

        Raises ConversationBroken while `dot_written` is False: the message is unsent then. An early reply
        of the relay ends the sending before the dot and is left for `final_reply`.
        """
        wire, body = self.wire, prepared.body
        self.dot_written = False
        if not wire.is_quiet:
            # A reply that nobody asked for: from here on each would be taken for another command's.
            raise ConversationBroken(wire.lost or "the relay talks out of turn")
        if len(body) > BLOCK_OCTETS:
            wire.watch_writes()
            blocks = memoryview(body)
            for start in range(0, len(body), BLOCK_OCTETS):
                wire.write(blocks[start : start + BLOCK_OCTETS])
                await wire.drain(self.relay.timeouts.data_block_s)
                if wire.replies:
                    return
            body = b""
        self.dot_written, self._dot_written_at = True, self._time()
        wire.write(b"".join((body, FINAL_DOT, b"" if then is None else self._group(then))))

    async def final_reply(self) -> tuple[Verdict, Reply]:
        """The relay's word on the message. Raises ConversationBroken: see `dot_written`."""
        reply = await self.wire.reply(self.relay.timeouts.final_dot_s)
        self.dot_took_s = max(self._time() - self._dot_written_at, self.dot_took_s * 0.9)
        if not self.dot_written and not (reply.is_transient or reply.is_permanent):
            raise ConversationBroken("the relay answered a message that was not sent yet")
        self.phase = Phase.FINAL_DOT
        verdict = verdict_on(reply, Phase.FINAL_DOT)
        if not self.dot_written:
            self.wire.break_off("the relay refused the message while it was being sent")
        return verdict, reply

    async def quit(self) -> None:
        """Take leave and close. Never raises: nothing hangs on it."""
        waits = self.relay.timeouts
        try:
            if self.wire.is_quiet:
                self.wire.write(b"QUIT\r\n")
                await self.wire.reply(waits.quit_s)
        except ConversationBroken:
            pass
        await self.wire.close(waits.quit_s)

    def abort(self) -> None:
        """Close at once, whatever is on the way."""
        self.wire.break_off("closed by us")

    def _group(self, prepared: Prepared) -> bytes:
        # RFC 2920 §3.1: DATA ends a group.
        group = prepared.mail + prepared.rcpt + b"DATA\r\n"
        if self._needs_rset:
            self._needs_rset, self._rset_on_the_way = False, True
            return b"RSET\r\n" + group
        return group

    def _go_on_at_hand(self) -> Reply | None:
        """The reply to DATA if MAIL, RCPT and DATA are all answered by now, and well: so most that went ahead are."""
        replies = self.wire.replies
        if not self.pipelining or self._rset_on_the_way or len(replies) != 3:
            return None
        mail, rcpt, data = replies
        if not (mail.is_positive and rcpt.is_positive and data.code == 354):
            return None
        replies.clear()
        self.phase = Phase.DATA
        return data

    async def _said(self, phase: Phase, command: bytes, timeout_s: float) -> tuple[Verdict, Reply]:
        if not self.pipelining and command:
            self.wire.write(command)
        reply = await self.wire.reply(timeout_s)
        return verdict_on(reply, phase), reply

    def _more_follows(self, verdict: Verdict) -> bool:
        """Whether replies of this group are still to come, now that one refused the message."""
        return self.pipelining and verdict not in (Verdict.GIVE_BACK, Verdict.OUT_OF_STEP)
