"""How each named crash point is come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.scenarios.crash_course import NO_INTERFERENCE, Interference


@dataclass(frozen=True, kw_only=True)
class Crash:
    """How a point is come to."""

    first: str
    """The step of the course that the victim begins with."""
    on: str = ""
    """The step that is to come in the database that it gets, if that is a later one."""
    passing: int = 1
    settings: str = "quick"
    interference: Interference = NO_INTERFERENCE
    after: Crash | None = None
    """A crash before, in the same database: it leaves what this one meets."""
    after_at: str = ""
    is_too_old: bool = False
    """Before it, the mail jobs come of an age at which nothing is recovered."""
    victim_survives: bool = False
    """A process that it started dies."""


_IN_A_CHILD = Crash(first="deliver", passing=20)
_HANDED_BACK = Crash(first="deliver", settings="slow", interference=Interference(end_shift=True))
_STOPPED = Crash(first="deliver", settings="slow", interference=Interference(stop_everything=True))
_RESTARTED = Crash(
    first="deliver",
    interference=Interference(restart_everything=True),
    after=_STOPPED,
    after_at="stop_committed",
)
_DEFERRED = Crash(first="deliver", settings="deferring")
"""All that is not stopped was deferred: it waits as loose mails."""
_RETRIED = Crash(first="deliver", passing=3, after=_DEFERRED, after_at="shift_over")
CRASHES: Mapping[str, Crash] = {
    "import_begun": Crash(first="fill"),
    "import_chunk_taken": Crash(first="fill"),
    "import_replaced": Crash(first="fill"),
    "import_counted": Crash(first="fill"),
    "import_committed": Crash(first="fill"),
    "release_frozen": Crash(first="release", passing=2),
    "release_committed": Crash(first="release"),
    "dedup_begun": Crash(first="resolve"),
    "dedup_inserted": Crash(first="resolve"),
    "gate_held": Crash(first="resolve"),
    "gate_places_taken": Crash(first="resolve", passing=2),
    "dedup_settled": Crash(first="resolve", passing=2),
    "dedup_committed": Crash(first="resolve"),
    "assembly_dictionary_kept": Crash(first="assemble"),
    # Of the eight batches and what a death cuts the sixth into no other worker comes to a sixth.
    "assembly_worker_began": Crash(first="assemble", passing=6, victim_survives=True),
    "assembly_worker_composed": Crash(first="assemble", passing=6, victim_survives=True),
    "assembly_batch_written": Crash(first="assemble", passing=2),
    "assembly_batch_committed": Crash(first="assemble", passing=2),
    "assembly_all_stored": Crash(first="assemble"),
    "assembly_marked": Crash(first="assemble"),
    "assembly_committed": Crash(first="assemble"),
    "queue_marked": Crash(first="queue"),
    "queue_committed": Crash(first="queue"),
    "shift_begun": Crash(first="deliver"),
    "claim_child_made": Crash(first="deliver", passing=2),
    "claim_made": Crash(first="deliver", passing=5),
    "claim_committed": Crash(first="deliver", passing=4),
    "claim_held": Crash(first="deliver", passing=2),
    "recovery_made": Crash(first="deliver", after=_IN_A_CHILD, after_at="result_settled"),
    "recovery_committed": Crash(first="deliver", after=_IN_A_CHILD, after_at="flush_sent"),
    "recovery_too_old": Crash(first="deliver", after=_IN_A_CHILD, after_at="result_settled", is_too_old=True),
    "messages_read": Crash(first="deliver", passing=2),
    "suppressed_recorded": Crash(first="deliver"),
    "repeats_read": Crash(first="deliver", settings="dropping"),
    "session_opened": Crash(first="deliver", passing=3),
    "before_mail": Crash(first="deliver", passing=7),
    "after_envelope": Crash(first="deliver", passing=30),
    "before_body": Crash(first="deliver", passing=30),
    "after_final_dot": Crash(first="deliver", passing=30),
    "after_reply": Crash(first="deliver", passing=30),
    "result_recorded": Crash(first="deliver", passing=30),
    "before_flush": Crash(first="deliver", passing=8),
    "flush_sent": Crash(first="deliver", passing=8),
    "flush_durable": Crash(first="deliver", passing=8),
    "result_settled": Crash(first="deliver", passing=30),
    "loose_mails_reserved": _RETRIED,
    "loose_results_written": _RETRIED,
    "loose_results_durable": _RETRIED,
    "loose_mails_unsent": Crash(
        first="deliver",
        settings="slow",
        interference=Interference(end_shift=True),
        after=_DEFERRED,
        after_at="shift_over",
    ),
    "heartbeat_written": Crash(first="deliver", settings="slow"),
    "progress_written": Crash(first="deliver", settings="slow"),
    "delivery_ended": Crash(first="deliver", passing=2),
    "finish_child_ended": Crash(first="deliver", passing=4),
    "finish_settled": Crash(first="deliver", passing=4),
    "finish_committed": Crash(first="deliver", passing=4),
    "before_hand_back": _HANDED_BACK,
    "after_hand_back": _HANDED_BACK,
    "stop_noticed": _STOPPED,
    "stop_committed": _STOPPED,
    "before_giving_up": Crash(first="deliver", settings="unreachable"),
    "shift_over": Crash(first="deliver"),
    "stop_asked": _STOPPED,
    "stop_asked_committed": _STOPPED,
    "loose_mails_stopped": _STOPPED,
    "dead_let_go": Crash(first="resolve", on="deliver", after=_STOPPED, after_at="stop_noticed"),
    "restart_asked": _RESTARTED,
    "restart_asked_committed": _RESTARTED,
    "clean_marked": Crash(first="resolve", after=Crash(first="resolve"), after_at="dedup_inserted"),
    "day_counted": Crash(first="close"),
    "day_closed": Crash(first="close"),
    "counters_rebuilt": Crash(first="close"),
    "places_given_back": Crash(first="close", passing=2),
    "policy_applied": Crash(first="resolve"),
    "day_given_up": Crash(first="clean"),
    "partition_detached": Crash(first="clean", passing=2),
    "partition_dropped": Crash(first="clean", passing=2),
    "report_marked": Crash(first="report"),
}
"""Those that are come to in the course."""
SWEPT_ELSEWHERE = {
    "held_mails_chosen": "test_frequency_queue_is_cut_off.py",
    "held_mails_released": "test_frequency_queue_is_cut_off.py",
    "held_mails_committed": "test_frequency_queue_is_cut_off.py",
    "policy_dropped": "test_frequency_queue_is_cut_off.py",
}
"""The others, and the file that comes to them: in the course nobody is written to twice."""
