"""A release of one size, from its list to its last message's end, and what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mail_orchestration.dispatch.retry_policy import RetryPolicy
from mail_orchestration.dispatch.send_window import window_of
from mail_orchestration.kernel.limit_settings import EACH_OTHER_DOMAIN
from mail_orchestration.simulation.ceilings import flow_of
from mail_orchestration.simulation.costs import Costs, costs_of, stored_octets
from mail_orchestration.simulation.preparing import Phase, prepare
from mail_orchestration.simulation.retrying import pauses
from mail_orchestration.simulation.scenario import Failures, Scenario
from mail_orchestration.simulation.sending import Point, Sent, send
from mail_orchestration.throttling.ceilings import OTHERS, flow_name, groups_by_domain


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What became of a release on paper. Seconds are from its beginning; None is more than a year."""

    recipients: int
    begins_at: datetime
    first_message_s: float | None
    half_s: float | None
    """When half of the messages had their end: accepted, rejected, or a dead letter."""
    ninety_percent_s: float | None
    ninety_nine_percent_s: float | None
    finish_s: float | None
    accepted: int
    rejected: int
    dead_letters: int
    unfinished: int
    """Still without an end after a year."""
    phases: Sequence[Phase]
    stored_octets: int
    """By which the database has grown."""
    costs: Costs
    curve: Sequence[Point]
    steps: int
    """That the simulation took."""

    @property
    def finish_at(self) -> datetime | None:
        """The moment of the last message's end."""
        return None if self.finish_s is None else self.begins_at + timedelta(seconds=self.finish_s)


def simulate(scenario: Scenario, recipients: int, *, now: datetime) -> Simulation:
    """A release to so many recipients, begun at the scenario's moment or `now`."""
    begins_at = scenario.begins_at or now
    if begins_at.tzinfo is None:
        begins_at = begins_at.replace(tzinfo=scenario.zone)
    before = prepare(scenario, recipients)
    queued_s = before[-1].begins_s + before[-1].seconds
    starts_s = queued_s + scenario.rates.start_seconds
    sending_from = begins_at + timedelta(seconds=starts_s)
    messages, failures = _messages(scenario, recipients), _failures(scenario)
    flow, flows = flow_of(scenario, messages, failures, sending_from)
    window = window_of(scenario.send_window, scenario.zone)
    policy = RetryPolicy(
        most_attempts=scenario.dispatcher.max_attempts,
        retry_after=timedelta(minutes=scenario.dispatcher.retry_after_minutes),
    )
    sent = send(
        flow,
        flows,
        failures,
        pauses(policy),
        closed_for=lambda seconds: window.closed_for(sending_from + timedelta(seconds=seconds)),
    )

    def after(seconds: float | None) -> float | None:
        return None if seconds is None else starts_s + seconds

    finish_s = after(sent.over_s)
    first = next((point.seconds for point in sent.points[1:] if point.unsent < recipients), None)
    closed_s = window.closed_for(sending_from)
    stored = stored_octets(scenario, recipients)
    last = sent.points[-1]
    return Simulation(
        recipients=recipients,
        begins_at=begins_at,
        first_message_s=None
        if first is None
        else starts_s + closed_s + min(map(scenario.reply_s, scenario.relays)),
        half_s=after(sent.share_at.get(0.5)),
        ninety_percent_s=after(sent.share_at.get(0.9)),
        ninety_nine_percent_s=after(sent.share_at.get(0.99)),
        finish_s=finish_s,
        accepted=last.accepted,
        rejected=last.rejected,
        dead_letters=last.dead,
        unfinished=last.unsent + last.deferred,
        phases=[*before, *_sending_phases(scenario, sent, queued_s, starts_s)],
        stored_octets=stored,
        costs=costs_of(
            scenario,
            recipients,
            seconds=starts_s + last.seconds,
            accepted={
                relay.name: last.accepted * share
                for relay, share in zip(scenario.relays, flow.relay_shares(), strict=True)
            },
            stored=stored,
        ),
        curve=[replace(point, seconds=point.seconds + starts_s) for point in sent.points],
        steps=sent.steps,
    )


def _messages(scenario: Scenario, recipients: int) -> dict[str, int]:
    """Recipients by domain, whole ones: who has the largest fraction left over gets one more."""
    exact = {_name(each.domain): recipients * each.share for each in scenario.mix}
    counts = {name: int(count) for name, count in exact.items()}
    short = recipients - sum(counts.values())
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[:short]:
        counts[name] += 1
    return counts


def _name(domain: str) -> str:
    return OTHERS if domain == EACH_OTHER_DOMAIN else domain


def _failures(scenario: Scenario) -> dict[str, Failures]:
    """By what has the same limits: the mean of the domains in it."""
    shares: dict[str, defaultdict[str, float]] = {}
    named = groups_by_domain(scenario.domains)
    for each in scenario.mix:
        name, own = flow_name(_name(each.domain), named), each.failures or scenario.failures
        sums = shares.setdefault(name, defaultdict(float))
        for key in Failures.model_fields:
            sums[key] += each.share * getattr(own, key)
        sums["share"] += each.share
    return {
        name: Failures(**{key: sums[key] / (sums["share"] or 1) for key in Failures.model_fields})
        for name, sums in shares.items()
    }


def _sending_phases(scenario: Scenario, sent: Sent, queued_s: float, starts_s: float) -> list[Phase]:
    until_s = sent.points[-1].seconds
    sending_s = until_s if sent.first_attempts_s is None else sent.first_attempts_s
    found = [
        Phase(
            name="start", begins_s=queued_s, seconds=starts_s - queued_s, limited_by="starting a mailcaster"
        ),
        Phase(name="delivery", begins_s=starts_s, seconds=sending_s, limited_by=_most(sent.held_back)),
    ]
    if until_s > sending_s:
        limited_by = _most(sent.held_back_again)
        found.append(
            Phase(
                name="retries",
                begins_s=starts_s + sending_s,
                seconds=until_s - sending_s,
                limited_by=limited_by,
            )
        )
    return found


def _most(held_back: Mapping[str, int]) -> str:
    return max(held_back, key=lambda name: held_back[name], default="")
