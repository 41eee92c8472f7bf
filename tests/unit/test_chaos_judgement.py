"""The long run's judgement notices what it is there for; the same seed draws the same faults."""

from __future__ import annotations

from tests.chaos.evidence import LOOSE_MAILS, Evidence, Job, Result, Taking
from tests.chaos.incidents import Incident
from tests.chaos.judgement import LATE, RELAY, Judgement, judge
from tests.chaos.plan import Kind, draw

WHO, OTHER = "large-1-100", "large-2-200"
KEY = (1, "r1@example.net")


def evidence(**more: object) -> Evidence:
    """One message, sent by WHO under mail job 2 at second 10, accepted and taken once."""
    known: dict[str, object] = {
        "takings": {KEY: [Taking(10.0, WHO, "<1>", True)]},
        "sessions": {WHO: [(9.0, float("inf"))], OTHER: [(9.0, float("inf"))]},
        "results": {KEY: [Result(10.1, 2, "accepted")]},
        "jobs": {2: Job(2, "FINISHED", "", "large-1", 1, None, 9.0, 0)},
        "claims": {WHO: [(9.0, 2)], OTHER: [(14.0, 3)]},
        "connections": 2,
        "hang_after_s": 3.0,
        "seconds": 60.0,
    }
    return Evidence(**{**known, **more})  # type: ignore[arg-type]


def repeated(
    *,
    incidents: list[Incident],
    reason: str = "hung, recovered by large-2",
    claimed_next: float | None = None,
) -> Judgement:
    """The message is taken again by OTHER, who recovered the mail job; no result of the first taking is there."""
    claims = [(9.0, 2)] if claimed_next is None else [(9.0, 2), (claimed_next, 4)]
    return judge(
        evidence(
            incidents=incidents,
            claims={WHO: claims, OTHER: [(14.0, 3)]},
            takings={KEY: [Taking(10.0, WHO, "<1>", True), Taking(15.0, OTHER, "<1>", True)]},
            results={KEY: [Result(15.1, 3, "accepted")]},
            jobs={
                2: Job(2, "RECOVERED", reason, "large-1", 1, None, 9.0, 1),
                3: Job(3, "FINISHED", "", "large-2", 1, 2, 14.0, 0),
            },
        )
    )


def test_all_is_well() -> None:
    found = judge(evidence())
    assert found.holds
    assert (found.messages, found.taken, found.outcomes) == (1, 1, {"accepted": 1})


def test_a_message_without_a_result_is_lost() -> None:
    assert any("has no result" in fault for fault in judge(evidence(results={KEY: []})).faults)


def test_a_message_that_is_called_accepted_and_was_never_taken_is_lost() -> None:
    found = judge(evidence(takings={}))
    assert any("never taken" in fault for fault in found.faults)
    assert sum(line.lost for line in found.lines) == 1


def test_a_message_that_the_relay_did_not_say_250_to_is_not_accepted() -> None:
    found = judge(evidence(takings={KEY: [Taking(10.0, WHO, "<1>", False)]}))
    assert any("said so to nobody" in fault for fault in found.faults)


def test_a_repeat_is_charged_to_the_kill_of_who_sent_it_first() -> None:
    kill = Incident(kind=Kind.MAILCASTER, at=10.05, until=10.05, hit=[WHO])
    found = repeated(incidents=[kill])
    assert found.holds, found.faults
    [line] = [line for line in found.lines if line.kind == Kind.MAILCASTER]
    assert (line.times, line.in_hand, line.repeated, line.bound) == (1, 1, 1, 1)
    assert line.longest_recovery_s is not None
    assert round(line.longest_recovery_s, 2) == 3.95


def test_a_kill_before_the_claim_is_not_to_blame() -> None:
    kill = Incident(kind=Kind.MAILCASTER, at=5.0, until=5.0, hit=[WHO])
    found = repeated(incidents=[kill], reason="was restarted, recovered by large-2")
    assert any("nothing accounts for it" in fault for fault in found.faults)


def test_what_was_claimed_after_an_awakening_is_not_charged_to_the_suspension() -> None:
    suspended = Incident(kind=Kind.SUSPENDED, at=6.0, until=9.02, hit=[WHO])
    kill = Incident(kind=Kind.MAILCASTER, at=10.05, until=10.05, hit=[WHO])
    found = repeated(incidents=[suspended, kill])
    assert found.holds, found.faults
    charged = {line.kind: line.repeated for line in found.lines}
    assert (charged[Kind.SUSPENDED], charged[Kind.MAILCASTER]) == (0, 1)


def test_of_two_faults_under_one_claim_the_nearer_is_charged() -> None:
    suspended = Incident(kind=Kind.SUSPENDED, at=9.1, until=9.3, hit=[WHO])
    kill = Incident(kind=Kind.MAILCASTER, at=10.05, until=10.05, hit=[WHO])
    charged = {line.kind: line.repeated for line in repeated(incidents=[suspended, kill]).lines}
    assert (charged[Kind.SUSPENDED], charged[Kind.MAILCASTER]) == (0, 1)


def test_a_fault_that_struck_while_the_next_claim_was_held_is_not_to_blame() -> None:
    cut_off = Incident(kind=Kind.HOST_CUT_OFF, at=9.1, until=9.3, hit=[WHO])
    kill = Incident(kind=Kind.MAILCASTER, at=10.3, until=10.3, hit=[WHO])
    charged = {
        line.kind: line.repeated for line in repeated(incidents=[cut_off, kill], claimed_next=10.2).lines
    }
    assert (charged[Kind.HOST_CUT_OFF], charged[Kind.MAILCASTER]) == (1, 0)


def test_what_a_cut_off_host_sends_late_is_charged_to_its_cut() -> None:
    """WHO recovered the mail job, and its result is there; OTHER had the same in flight when its host was cut off."""
    cut_off = Incident(kind=Kind.HOST_CUT_OFF, at=7.0, until=14.9, hit=[OTHER])
    kill = Incident(kind=Kind.MAILCASTER, at=14.0, until=14.0, hit=[WHO])
    found = judge(
        evidence(
            incidents=[cut_off, kill],
            takings={KEY: [Taking(10.0, WHO, "<1>", True), Taking(15.0, OTHER, "<1>", True)]},
            claims={WHO: [(9.0, 2)], OTHER: [(6.0, 1)]},
        )
    )
    assert found.holds, found.faults
    charged = {line.kind: line.repeated for line in found.lines}
    assert (charged[Kind.HOST_CUT_OFF], charged[Kind.MAILCASTER]) == (1, 0)


def test_loose_mails_that_were_reserved_after_an_awakening_are_not_charged_to_the_suspension() -> None:
    """Though that is nearer: WHO held mail job 2 then, and had reserved loose mails when it was killed."""
    suspended = Incident(kind=Kind.SUSPENDED, at=9.2, until=9.8, hit=[WHO])
    kill = Incident(kind=Kind.MAILCASTER, at=10.3, until=10.3, hit=[WHO])
    found = judge(
        evidence(
            incidents=[suspended, kill],
            claims={WHO: [(9.0, 2), (9.9, LOOSE_MAILS)]},
            takings={KEY: [Taking(10.0, WHO, "<1>", True), Taking(15.0, OTHER, "<1>", True)]},
            results={KEY: [Result(15.1, 3, "accepted")]},
        )
    )
    assert found.holds, found.faults
    charged = {line.kind: line.repeated for line in found.lines}
    assert (charged[Kind.SUSPENDED], charged[Kind.MAILCASTER]) == (0, 1)


def test_a_repeat_that_nothing_accounts_for_is_a_failure() -> None:
    found = repeated(incidents=[], reason="was restarted, recovered by large-2")
    assert any("nothing accounts for it" in fault for fault in found.faults)


def test_a_repeat_after_a_late_heartbeat_has_a_line_of_its_own() -> None:
    found = repeated(incidents=[])
    assert found.holds, found.faults
    assert [line.repeated for line in found.lines if line.kind == LATE] == [1]


def test_more_repeats_than_open_connections_are_a_failure() -> None:
    kill = Incident(kind=Kind.MAILCASTER, at=10.05, until=10.05, hit=[WHO])
    again = {
        (1, f"r{n}@example.net"): [
            Taking(10.0, WHO, f"<{n}>", True),
            Taking(15.0, OTHER, f"<{n}>", True),
        ]
        for n in range(2)
    }
    found = judge(
        evidence(
            incidents=[kill], takings=again, results={key: [Result(15.1, 3, "accepted")] for key in again}
        )
    )
    assert any("2 messages with 1 connections open" in fault for fault in found.faults)


def test_an_uncertain_message_that_is_sent_again_is_the_relays() -> None:
    found = judge(
        evidence(
            takings={KEY: [Taking(10.0, WHO, "<1>", False), Taking(11.0, WHO, "<1>", True)]},
            results={KEY: [Result(10.1, 2, "uncertain"), Result(11.1, 2, "accepted")]},
        )
    )
    assert found.holds, found.faults
    assert [(line.repeated, line.bound) for line in found.lines if line.kind == RELAY] == [(1, 1)]


def test_a_repeat_under_another_message_id_is_a_failure() -> None:
    kill = Incident(kind=Kind.MAILCASTER, at=10.05, until=10.05, hit=[WHO])
    takings = {KEY: [Taking(10.0, WHO, "<1>", True), Taking(15.0, OTHER, "<2>", True)]}
    found = judge(evidence(incidents=[kill], takings=takings))
    assert any("2 Message-IDs" in fault for fault in found.faults)


def test_the_same_seed_draws_the_same_faults_on_the_same_places() -> None:
    first, again = (draw(seed=7, kills=300, messages=50_000, dagster=5) for _ in range(2))
    assert first.faults == again.faults
    assert first.releases == again.releases
    assert first.faults != draw(seed=8, kills=300, messages=50_000, dagster=5).faults
    assert sum(fault.kind.is_kill for fault in first.faults) == 300
    assert {fault.kind for fault in first.faults} == set(Kind)
    assert first.messages >= 50_000
