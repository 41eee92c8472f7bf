"""A gate's doings with slots that come, go by and are not used; its source is a list of slices."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from unittest.mock import patch

import pytest

from mail_orchestration.egress.gate import HORIZON_S, LONG_HORIZON_S, Gate
from mail_orchestration.egress.parking import Parking
from mail_orchestration.egress.ports import Complaint, Held, Scope, Slice, Standing, Unused, Wish
from mail_orchestration.egress.relay import Relay
from mail_orchestration.egress.throttle import Throttle
from mail_orchestration.kernel.clock import steady_seconds
from tests.scenarios.relays.messages import plain_messages

LATE_S = 30.0
RELAY = Relay(name="r", host="r.example", tls="none")  # type: ignore[arg-type]


class Slices:
    """A SlotSource that gives as many slots as are in `gives`, one number a time: all open, or none until `again_s`."""

    def __init__(
        self, gives: Sequence[int], again_s: float = 3600.0, lateness_s: float = LATE_S, weight: int = 1
    ) -> None:
        self.gives = list(gives)
        self.wishes: list[int] = []
        self.horizons: list[float] = []
        self.spreads: list[float] = []
        self.asked_together: list[set[str]] = []
        self.unused: list[Unused] = []
        self._again_s, self._lateness_s, self._weight = again_s, lateness_s, weight

    def scope_of_relay(self, relay: Relay) -> Scope:
        return Scope("relay", relay.host)

    def scope_of_domain(self, domain: str) -> Scope:
        return Scope("domain", domain)

    def is_limited(self, scope: Scope) -> bool:
        return scope.kind == "relay" or scope.name.startswith("limited")

    async def stand(self, complaints: Sequence[Complaint], held: Mapping[Scope, Held]) -> Standing:
        raise AssertionError("no delivery is made here")

    async def leave(self) -> None:
        pass

    async def take(self, wishes: Mapping[Scope, Wish], unused: Sequence[Unused]) -> Sequence[Slice]:
        self.wishes.extend(wish.messages for wish in wishes.values())
        self.asked_together.append({scope.kind for scope in wishes})
        self.horizons.extend(wish.horizon_s for wish in wishes.values())
        self.spreads.extend(wish.spread_s for wish in wishes.values())
        self.unused.extend(unused)
        now, slices = steady_seconds(), []
        for scope in wishes:
            if not self.gives:
                raise LookupError("nothing left")
            count = self.gives.pop(0)
            again_at = 0.0 if count else now + self._again_s
            opens = [now - 1e-6] * -(-count // self._weight)
            slices.append(Slice(scope, opens, self._weight, count, self._lateness_s, again_at, None))
        return slices


def run(scenario: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


@pytest.mark.rule("6.7")
def test_it_asks_for_more_while_somebody_waits() -> None:
    async def scenario() -> None:
        source = Slices([1, 6, 50])
        gate = Throttle(source).gate_of_relay(RELAY)
        assert gate is not None
        for _ in range(1 + 6 + 1):
            assert await gate.enter() is not None
        first, second, third = source.wishes[:3]
        assert first == 1
        assert 2 * first <= second
        assert 2 * second <= third

    run(scenario())


@pytest.mark.rule("6.7")
@pytest.mark.parametrize(
    ("lateness_s", "horizons"),
    [(0.03, {HORIZON_S}), (LATE_S, {HORIZON_S, LONG_HORIZON_S})],
    ids=["tight", "patient"],
)
def test_it_asks_for_a_longer_time_only_where_slots_keep_and_nobody_waits(
    lateness_s: float, horizons: set[float]
) -> None:
    async def scenario() -> None:
        source = Slices([1, 2, 4, 8, 16], lateness_s=lateness_s)
        gate = Throttle(source).gate_of_relay(RELAY)
        assert gate is not None
        assert await gate.enter() is not None
        # Somebody waits: the next is not for long.
        assert await gate.enter() is not None
        assert set(source.horizons) == {HORIZON_S}
        while len(source.horizons) < 4:
            gate.try_enter()
            await asyncio.sleep(0)
        assert set(source.horizons) == horizons

    run(scenario())


@pytest.mark.rule("6.7")
def test_limits_that_are_easily_kept_are_asked_for_together() -> None:
    """Each when half of its time is over and the other asks: not one after the other."""

    async def scenario() -> None:
        source = Slices([4] * 40, lateness_s=LATE_S)
        throttle = Throttle(source)
        gates = throttle.gate_of_relay(RELAY), throttle.gate_of_address("a@limited.example")
        while len(source.asked_together) < 10:
            for gate in gates:
                assert gate is not None
                if gate.try_enter() is None:
                    assert await gate.enter() is not None
            await asyncio.sleep(0)
        assert source.asked_together[-5:] == [{"relay", "domain"}] * 5
        # Nothing more goes to the domain: but for what it used before, nothing more is asked for it.
        asked = len(source.asked_together)
        while len(source.asked_together) < asked + 5:
            relay = gates[0]
            assert relay is not None
            if relay.try_enter() is None:
                assert await relay.enter() is not None
            await asyncio.sleep(0)
        assert source.asked_together[-4:] == [{"relay"}] * 4

    run(scenario())


@pytest.mark.rule("6.7")
@pytest.mark.parametrize("weight", [1, 1000], ids=["a line", "a quota alone, of one moment"])
def test_what_is_half_at_hand_is_not_asked_for_beside_others(weight: int) -> None:
    async def scenario() -> None:
        source = Slices([40] * 100, lateness_s=LATE_S, weight=weight)
        throttle = Throttle(source)
        relay, domain = throttle.gate_of_relay(RELAY), throttle.gate_of_address("a@limited.example")
        assert relay is not None
        assert domain is not None
        for turn in range(2000):
            for gate in (relay, domain) if turn % 10 == 0 else (relay,):
                if gate.try_enter() is None:
                    assert await gate.enter() is not None
            await asyncio.sleep(0)
        asked = sum("domain" in each for each in source.asked_together)
        # 200 messages in slices of 40 of which at most half is left.
        assert 5 <= asked <= 15
        assert len(source.asked_together) > 2 * asked

    run(scenario())


@pytest.mark.rule("6.7")
@pytest.mark.parametrize(("lateness_s", "is_bounded"), [(0.1, True), (LATE_S, False)])
def test_slots_that_do_not_keep_are_not_taken_beyond_what_is_left(
    lateness_s: float, is_bounded: bool
) -> None:
    async def scenario() -> None:
        source = Slices([1, 1, 1, 1], lateness_s=lateness_s)
        throttle = Throttle(source)
        throttle.begin(lambda: 2)
        gate = throttle.gate_of_relay(RELAY)
        assert gate is not None
        for _ in range(3):
            assert await gate.enter() is not None
        # One waits, and two are to come.
        assert (max(source.wishes) <= 3) == is_bounded
        throttle.rest()
        assert await gate.enter() is not None
        assert source.wishes[-1] > 3, "the next delivery has told nothing"

    run(scenario())


@pytest.mark.rule("6.7")
def test_the_last_of_a_delivery_are_asked_for_as_fast_as_those_before_were_used() -> None:
    async def scenario() -> None:
        source, left = Slices([1, 40, 6], lateness_s=0.1), 1000
        throttle = Throttle(source)
        throttle.begin(lambda: left)
        gate = throttle.gate_of_relay(RELAY)
        assert gate is not None
        for _ in range(1 + 40):
            assert await gate.enter() is not None
        assert set(source.spreads) == set(source.horizons) == {HORIZON_S}
        left = 5
        assert await gate.enter() is not None
        # One waits, and five are to come; forty were used within LEAD_S.
        assert source.wishes[-1] == 6
        assert source.horizons[-1] == HORIZON_S
        assert source.spreads[-1] <= 1.1 * HORIZON_S * 6 / 40

    run(scenario())


@pytest.mark.rule("6.7")
@pytest.mark.parametrize("look", range(1, 6))
def test_a_process_that_is_suspended_between_two_looks_at_the_clock_asks_again(look: int) -> None:
    """Slots that are over when it goes on are nothing to wait for."""
    looks = itertools.count(1)

    async def scenario() -> None:
        asked: list[Gate] = []
        gate = Gate(Scope("relay", "r.example"), asked.append)
        now = steady_seconds()
        gate.supply(
            Slice(gate.scope, [now + 0.01 * number for number in range(1, 71)], 1, 70, 0.02, 0.0, None)
        )
        with patch("mail_orchestration.egress.gate.steady_seconds", lambda: now + (next(looks) >= look)):
            turn = asyncio.create_task(gate.enter())
            while not (asked or turn.done()):
                await asyncio.sleep(0.001)
        gate.rest()
        await turn

    run(scenario())
    assert next(looks) > look


@pytest.mark.rule("6.7")
def test_what_was_missed_is_not_asked_for_again_and_given_back() -> None:
    async def scenario() -> None:
        source = Slices([20, 5], lateness_s=0.0)
        gate = Throttle(source).gate_of_relay(RELAY)
        assert gate is not None
        # Too late for all of them: it waits for the next, which are too late as well.
        waiting = asyncio.create_task(gate.enter())
        while len(source.wishes) < 2:
            await asyncio.sleep(0)
        assert source.wishes == [1, 1]
        assert [(each.unreached, each.unused) for each in source.unused] == [(0, 20)]
        gate.rest()
        assert await waiting is None

    run(scenario())


@pytest.mark.rule("6.7")
def test_a_slot_that_was_put_back_is_the_next_ones() -> None:
    async def scenario() -> None:
        source = Slices([2, 9])
        throttle = Throttle(source)
        gate = throttle.gate_of_relay(RELAY)
        assert gate is not None
        first, second = await gate.enter(), await gate.enter()
        assert first is not None
        assert second is not None
        second.put_back()
        assert await gate.enter() is second
        first.put_back()
        await throttle.close()
        # Of the first slice the one that was put back, and all of the second.
        assert sorted((each.unreached, each.unused) for each in source.unused) == [(0, 1), (9, 9)]

    run(scenario())


@pytest.mark.rule("6.7")
def test_an_exhausted_limit_sends_its_line_away_and_asks_again_in_time() -> None:
    async def scenario() -> None:
        source = Slices([0, 1, 1], again_s=0.05)
        gate = Throttle(source).gate_of_relay(RELAY)
        assert gate is not None
        supplied = asyncio.Event()
        gate.watch(supplied.set)
        assert await gate.enter() is None
        assert gate.is_exhausted
        supplied.clear()
        await supplied.wait()
        assert not gate.is_exhausted
        assert gate.try_enter() is not None

    run(scenario())


@pytest.mark.rule("6.7")
def test_nobody_overtakes_the_line_and_an_envelope_ahead_needs_a_slot_that_lasts() -> None:
    async def scenario() -> None:
        gate = Throttle(Slices([1, 3, 8], lateness_s=10.0)).gate_of_relay(RELAY)
        assert gate is not None
        in_line = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        assert gate.try_enter() is None
        assert await in_line is not None
        while gate.next_at() > steady_seconds():
            await asyncio.sleep(0)
        assert gate.try_enter(ahead_s=9.5) is None
        assert gate.try_enter(ahead_s=1.0) is not None

    run(scenario())


@pytest.mark.rule("6.7")
def test_what_the_source_raises_comes_through() -> None:
    async def scenario() -> None:
        throttle = Throttle(Slices([]))
        gate = throttle.gate_of_address("a@limited.example")
        assert throttle.gate_of_address("a@free.example") is None
        assert gate is not None
        failing = asyncio.create_task(throttle.failure())
        await asyncio.sleep(0)
        assert gate.try_enter() is None
        with pytest.raises(LookupError):
            await failing

    run(scenario())


@pytest.mark.rule("6.7")
def test_several_messages_share_a_slot_and_what_they_leave_is_given_back() -> None:
    async def scenario() -> None:
        source = Slices([11, 9], weight=4)
        throttle = Throttle(source)
        gate = throttle.gate_of_relay(RELAY)
        assert gate is not None
        for _ in range(6):
            assert await gate.enter() is not None
        assert gate.next_at() < steady_seconds(), "an open slot is no matter of the future"
        await throttle.close()
        # The third slot was not reached; of the second two messages are left.
        assert (1, 5) in [(each.unreached, each.unused) for each in source.unused]

    run(scenario())


@pytest.mark.rule("6.7")
def test_nothing_is_asked_for_while_slots_are_open_that_nobody_uses() -> None:
    """The relay is left alone meanwhile: what waits has no session, whatever its domain's limit gives."""

    async def scenario() -> None:
        source = Slices([100] * 1000)
        gate = Throttle(source).gate_of_address("a@limited.example")
        assert gate is not None
        assert await gate.enter() is not None
        parking = Parking(lambda: None)
        for message in plain_messages(20):
            parking.park(gate, message)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(source.wishes) < 5
        assert max(source.wishes) < 500

    run(scenario())


@pytest.mark.rule("6.7")
def test_a_message_that_waits_for_its_domain_leaves_through_an_open_slot() -> None:
    async def scenario() -> None:
        throttle = Throttle(Slices([20, 20]))
        gate = throttle.gate_of_address("a@limited.example")
        assert gate is not None
        assert await gate.enter() is not None
        parking = Parking(lambda: None)
        first, second = plain_messages(2)
        parking.park(gate, first)
        parking.park(gate, second)
        assert parking.leave_for_a_session() is first
        parked = parking.leave()
        assert parked is not None
        assert parked[0] is second

    run(scenario())
