"""One of a delivery's connections: keeps a session to some relay and sends one mail after another.

What must hold (spec 5.1, 5.7): the next body does not leave before the last result is durable, so that of
each connection at most one message is ever uncertain. The next *envelope* may leave earlier: where PIPELINING
is offered it travels behind the last final dot, and is simply dropped with the connection when the delivery
ends meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

from mail_orchestration.egress.content import Refusal
from mail_orchestration.egress.faults import ConversationBroken, RelayUnusable
from mail_orchestration.egress.feed import Feed
from mail_orchestration.egress.idle_sessions import IdleSessions
from mail_orchestration.egress.lanes import Lane, Lanes
from mail_orchestration.egress.ports import Scope
from mail_orchestration.egress.reply import Reply
from mail_orchestration.egress.results import Recorder, Results
from mail_orchestration.egress.session import BLOCK_OCTETS, Prepared, Session
from mail_orchestration.egress.slots_at_hand import Opening
from mail_orchestration.egress.verdict import Verdict
from mail_orchestration.kernel.attempts import Outcome, OutgoingMessage, Phase
from mail_orchestration.kernel.clock import steady_seconds
from mail_orchestration.kernel.crash_points import crash_point, crash_soon

MOST_BREAKS = 3
"""A message that breaks this many connections in a row before its final dot is deferred: it must not spin."""

AHEAD_S = 0.05
"""An envelope goes ahead of the last reply only through a slot that is open for so long: relays pause now and then."""

Heard = Callable[[Scope, str, Verdict, Reply, Phase], None]
"""Told of each answer: relay, recipient address, what it means, the answer, and the command that it answers."""
TurnedAway = Callable[[Scope, Reply], None]
"""Told of what a relay says instead of beginning a session."""


class Connection:
    """One connection, as long as the delivery lasts. `run` it as a task, `interrupt` it when that ends."""

    def __init__(
        self,
        feed: Feed,
        lanes: Lanes,
        results: Results,
        idle: IdleSessions | None,
        may_send: Callable[[], bool],
        heard: Heard,
        turned_away: TurnedAway,
    ) -> None:
        self._heard = heard
        self._turned_away = turned_away
        self._feed = feed
        self._lanes = lanes
        self._idle = idle
        self._may_send = may_send
        self._recorder = Recorder(results)
        self._ending = False
        self._opening: asyncio.Task[Session] | None = None
        self._session: Session | None = None
        self._answering = False
        self._leaving = self._is_surplus = False
        self._is_stale = False
        """The session was idle, and the relay may have closed it since: no fault of the relay's."""

    def interrupt(self) -> None:
        """Begin no new body. What has begun is finished: its reply is read and its result recorded."""
        self._ending = True
        if self._opening is not None:
            self._opening.cancel()
        if self._session is not None and self._answering:
            self._session.abort()

    def _is_ending(self) -> bool:
        return self._ending

    async def run(self) -> None:
        """Send until no more comes or the delivery ends. What source and sink raise comes through."""
        while await self._lanes.room() and (message := await self._feed.take()) is not None:
            lane = self._lanes.acquire()
            if lane is None:
                # No relay is open any more. Another connection may be in session and wait for a message.
                self._feed.give_back(message)
                continue
            self._is_surplus = False
            try:
                session = await self._open(lane)
                if session is None:
                    self._feed.give_back(message)
                else:
                    await self._use(lane, session, message)
            finally:
                self._lanes.release(lane, was_leaving=self._is_surplus)

    async def _open(self, lane: Lane) -> Session | None:
        self._is_stale = False
        if self._is_ending():
            return None
        if self._idle is not None and (kept := await self._idle.take(lane.relay)) is not None:
            self._is_stale = True
            return kept
        self._opening = asyncio.ensure_future(Session.open(lane.relay, lane.context))
        try:
            return await self._opening
        except RelayUnusable as error:
            if error.reply is not None:
                self._turned_away(lane.share.scope, error.reply)
            self._lanes.failed(lane, str(error))
        except asyncio.CancelledError:
            if not self._is_ending() or not self._opening.cancelled():
                self._opening.cancel()
                raise
        finally:
            self._opening = None
        return None

    async def _use(self, lane: Lane, session: Session, message: OutgoingMessage) -> None:
        self._session, self._leaving = session, False
        self._lanes.session_began(lane, is_new=not self._is_stale)
        crash_point("session_opened")
        well = is_kept = False
        try:
            well = await self._converse(lane, session, message)
            await self._recorder.settle()
            if well and self._idle is not None and not self._leaving and not session.is_spent:
                self._idle.keep(session)
                is_kept = True
            elif well:
                await session.quit()
        finally:
            if not is_kept:
                session.abort()
            self._session = None
            self._lanes.session_ended(lane, well=well)

    async def _converse(self, lane: Lane, session: Session, first: OutgoingMessage) -> bool:
        """Mail transactions one after another. Returns whether the session is fit for QUIT."""
        feed, recorder = self._feed, self._recorder
        message: OutgoingMessage | None = first
        under_way: Prepared | None = None
        """The envelope of `message`, when it left behind the last final dot."""
        while message is not None:
            if under_way is None and (message := await self._admitted(lane, session, message)) is None:
                break
            prepared = under_way or session.prepare(message)
            if isinstance(prepared, Refusal):
                await recorder.settle()
                recorder.decided(
                    message, Outcome.REJECTED, prepared.enhanced, prepared.reason, lane.relay.name
                )
                message = await self._next(lane, session)
                continue
            ahead: OutgoingMessage | None = None
            broken: str | None = None
            try:
                if under_way is None:
                    crash_point("before_mail")
                    session.begin(prepared)
                under_way = None
                self._answering = True
                crash_soon("after_envelope")
                verdict, reply = await session.answer(prepared)
                self._answering = False
                if self._is_stale and verdict is Verdict.GIVE_BACK:
                    feed.give_back(message)
                    return False
                self._is_stale = False
                await recorder.settle()
                if self._is_ending() or not self._may_send():
                    feed.give_back(message)
                    return False
                if verdict is Verdict.GO_ON:
                    ahead, under_way = self._look_ahead(lane, session)
                    crash_point("before_body")
                    await session.send_body(prepared, under_way)
                    crash_soon("after_final_dot")
                    verdict, reply = await session.final_reply()
                    crash_point("after_reply")
            except ConversationBroken as error:
                # No await in here: compiled, connections that wait in a handler at once mix up their errors.
                broken = str(error)
            finally:
                self._answering = False
            if broken is not None:
                await recorder.settle()
                if ahead is not None:
                    feed.give_back(ahead)
                await self._broke(lane, session, message, broken)
                return False
            if not await self._conclude(lane, session, message, verdict, reply):
                if ahead is not None:
                    feed.give_back(ahead)
                return False
            if ahead is None:
                message = await self._next(lane, session)
            elif self._is_ending():
                feed.give_back(ahead)
                return False
            else:
                message = ahead
        return True

    async def _admitted(
        self, lane: Lane, session: Session, message: OutgoingMessage
    ) -> OutgoingMessage | None:
        """The message that the limits let begin now, `message` or another; None when the session should end."""
        feed, gate = self._feed, lane.gate
        while True:
            slot: Opening | None = None
            if gate is not None and (slot := gate.try_enter()) is None:
                # Whoever waits for long first knows that what was sent is durable.
                await self._recorder.settle()
                slot = await gate.enter()
                if slot is None or session.is_spent or self._is_ending():
                    if slot is not None:
                        slot.put_back()
                    feed.give_back(message)
                    return None
            turn = feed.admit(message)
            if turn is None:
                _put_back(slot)
            elif feed.is_stale(turn.message) and not await feed.is_wanted(turn.message):
                _put_back(slot, turn.slot)
            elif turn.is_over or (slot is not None and slot.is_shut):
                # Asking took too long, or the loop was busy: a slot that is over counts for the next window.
                _put_back(slot)
                feed.give_up(turn)
            else:
                return turn.message
            following = await self._next(lane, session)
            if following is None:
                return None
            message = following

    def _look_ahead(self, lane: Lane, session: Session) -> tuple[OutgoingMessage | None, Prepared | None]:
        """The next message and its envelope, to leave behind the body that is about to be sent."""
        if not session.pipelining or self._leaves(lane, session) or not self._feed.is_at_hand:
            return None, None
        # The relay reads the envelope when it has answered the body before it, and may take longer than lately.
        ahead_s = max(AHEAD_S, 2 * session.dot_took_s)
        slot = now = None
        if lane.gate is not None:
            now = steady_seconds()
            if (slot := lane.gate.try_enter(ahead_s, now)) is None:
                return None, None
        # What reading it raises ends the delivery: its slots count as used then.
        ahead = self._feed.take_now()
        turn = None if ahead is None else self._feed.admit(ahead, ahead_s, now)
        if turn is not None:
            prepared = session.prepare(turn.message)
            if (
                not isinstance(prepared, Refusal)
                and len(prepared.body) <= BLOCK_OCTETS
                and not self._feed.is_stale(turn.message)
            ):
                return turn.message, prepared
            # One that we refuse is recorded in its turn; a large one is not held where it is not being sent; and one
            # that waited for long is asked about first.
            self._feed.give_back(turn.message)
        _put_back(slot, turn.slot if turn is not None else None)
        return None, None

    async def _next(self, lane: Lane, session: Session) -> OutgoingMessage | None:
        """The message to go on with in this session; None when the session should end."""
        if self._is_ending() or self._leaves(lane, session):
            return None
        message = self._feed.take_now()
        if message is None:
            # Whoever waits for more first knows that what was sent is durable.
            await self._recorder.settle()
            message = await self._feed.take()
            if message is not None and (self._is_ending() or session.is_spent):
                self._feed.give_back(message)
                return None
        return message

    def _leaves(self, lane: Lane, session: Session) -> bool:
        if not self._leaving and self._lanes.should_leave(lane):
            self._leaving = self._is_surplus = True
        if session.is_spent or self._lanes.should_move(lane):
            self._leaving = True
        return self._leaving

    async def _conclude(
        self, lane: Lane, session: Session, message: OutgoingMessage, verdict: Verdict, reply: Reply
    ) -> bool:
        """Act on the relay's word on `message`. Returns whether the session goes on."""
        name = lane.relay.name
        self._heard(lane.share.scope, message.address, verdict, reply, session.phase)
        match verdict:
            case Verdict.ACCEPTED:
                self._recorder.accepted(message, reply, name)
            case Verdict.DEFERRED:
                self._recorder.refused(message, Outcome.DEFERRED, reply, session.phase, name)
            case Verdict.REJECTED:
                self._recorder.refused(message, Outcome.REJECTED, reply, session.phase, name)
            case Verdict.GIVE_BACK:
                self._lanes.failed(lane, str(reply))
                await self._unsent(lane, session, message, reply, "the relay closed the session with 421")
                return False
            case Verdict.SESSION_REFUSED:
                self._lanes.failed(lane, str(reply))
                self._feed.give_back(message)
                return False
            case Verdict.GO_ON | Verdict.OUT_OF_STEP:
                await self._broke(lane, session, message, f"the relay is out of step: {reply.code}")
                return False
            case _:
                assert_never(verdict)
        self._lanes.answered(lane)
        return session.wire.lost is None

    async def _broke(self, lane: Lane, session: Session, message: OutgoingMessage, why: str) -> None:
        """The conversation ended without the relay's word on `message`."""
        if session.dot_written:
            reason = f"no reply to the final dot: {why}"
            self._recorder.decided(message, Outcome.UNCERTAIN, None, reason, lane.relay.name)
            self._lanes.failed(lane, reason)
        elif self._is_ending() or self._is_stale:
            self._feed.give_back(message)
        else:
            self._lanes.failed(lane, why)
            await self._unsent(lane, session, message, None, why)

    async def _unsent(
        self, lane: Lane, session: Session, message: OutgoingMessage, reply: Reply | None, why: str
    ) -> None:
        """The message was not sent: it comes next, unless it has broken too many connections."""
        if self._feed.count_break(message) < MOST_BREAKS:
            self._feed.give_back(message)
            return
        await self._recorder.settle()
        if reply is not None:
            self._recorder.refused(message, Outcome.DEFERRED, reply, session.phase, lane.relay.name)
        else:
            reason = f"broke {MOST_BREAKS} connections before its final dot; the last: {why}"
            self._recorder.decided(message, Outcome.DEFERRED, "4.4.2", reason, lane.relay.name)


def _put_back(*slots: Opening | None) -> None:
    for slot in slots:
        if slot is not None:
            slot.put_back()
