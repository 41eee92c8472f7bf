"""Named places at which a process can be made to die, so that tests can show that dying there loses nothing.

`CRASH_AT=after_final_dot` kills the process with SIGKILL when it passes that place for the first time,
`CRASH_AT=after_final_dot:7` when it passes for the seventh. Without the variable a place costs one comparison of
two strings, no more than a call. For tests alone: nobody sets it in production, and nothing else can set it off.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from mail_orchestration.kernel.errors import BadSettings

VARIABLE = "CRASH_AT"

CRASH_POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # ── audience ──
        "import_begun": "The import has its row; nothing of the source was read.",
        "import_chunk_taken": "A chunk of the source is in the tables; nothing is committed.",
        "import_replaced": "Members whom the source does not name are removed; nothing is committed.",
        "import_counted": "The import has its figures; nothing is committed.",
        "import_committed": "The import is committed; nobody was told.",
        "release_frozen": "Mail job and release are written; nothing is committed.",
        "release_committed": "The release is committed; whoever asked for it does not know its number.",
        "dedup_begun": "It is noted that dedup begins; there is no recipient.",
        "dedup_inserted": "The recipients are written and not counted; nothing is committed.",
        "gate_held": "Whom the frequency policy forbids is bypassed and held; nothing is committed.",
        "gate_places_taken": "Everybody else has a place in the frequency counters; nothing is committed.",
        "dedup_settled": "Recipients, figures and kind are written; nothing is committed.",
        "dedup_committed": "Dedup is committed; nobody was told.",
        # ── composition ──
        "assembly_dictionary_kept": "The dictionary is committed; no message is assembled.",
        "assembly_worker_began": "A worker process has its batch and has composed nothing of it.",
        "assembly_worker_composed": "A worker process has composed its batch and has not handed it over.",
        "assembly_batch_written": "A batch's messages are written, its bypasses are not; nothing is committed.",
        "assembly_batch_committed": "A batch is committed; the next one is not begun.",
        "assembly_all_stored": "All messages are committed; the release is not marked as assembled.",
        "assembly_marked": "The release is marked as assembled; this is not committed.",
        "assembly_committed": "The assembled release is committed; nobody was told.",
        # ── dispatch ──
        "queue_marked": "The mail job is QUEUED or P_QUEUED; this is not committed.",
        "queue_committed": "The mail job is in the queue; nobody was told.",
        "shift_begun": "The mailcaster's shift is noted; nothing is claimed.",
        "claim_child_made": "The parent is divided and the child is made; nothing is committed.",
        "claim_made": "A claim is made, whatever it is of; nothing is committed.",
        "claim_committed": "The claim is committed; its holder has no lock yet.",
        "claim_held": "The holder has its session lock; nothing was read.",
        "recovery_made": "The old mail job is RECOVERED and the new one is made; nothing is committed.",
        "recovery_committed": "The recovery is committed; the new holder has no lock yet.",
        "recovery_too_old": "A mail job too old to be recovered is FAILED, its messages expired; not committed.",
        # ── egress ──
        "messages_read": "Messages were read to be sent; none of them was.",
        "suppressed_recorded": "Messages to recipients suppressed since assembly have their results.",
        "repeats_read": "Uncertain messages were read to be sent once more; none of them was.",
        "session_opened": "A session with the relay stands; no command of a mail transaction has left.",
        "before_mail": "MAIL of a message that does not travel ahead is about to be written.",
        "after_envelope": "The commands of an envelope have left (without PIPELINING the first one); no reply is read.",
        "before_body": "The relay waits for the body; nothing of it was written.",
        "after_final_dot": "The final dot has left; the relay's reply is not read.",
        "after_reply": "The relay's word on the message is read; its result is not recorded.",
        "result_recorded": "The result waits for its flush; nothing of it was sent to the database.",
        # ── feedback ──
        "before_flush": "The results of several connections are gathered; nothing was sent to the database.",
        "flush_sent": "The flush was sent to the database; it is not known whether it is durable.",
        "flush_durable": "The results are durable; the connections do not know it.",
        "result_settled": "A connection knows that its result is durable; its next body has not left.",
        # ── loose mails ──
        "loose_mails_reserved": "Loose mails are SENDING in this worker's hands; none of them was sent.",
        "loose_results_written": "Results of loose mails and all that follows are written; nothing is committed.",
        "loose_results_durable": "Results of loose mails are durable; the connections do not know it.",
        "loose_mails_unsent": "The worker is to end; what it has reserved and not sent is not given back.",
        # ── the end of a mail job ──
        "heartbeat_written": "The heartbeat is committed.",
        "progress_written": "The progress figures are committed.",
        "delivery_ended": "Nothing is being sent any more; how the mail job ended is not written.",
        "finish_child_ended": "A child has ended, its parent is not settled; nothing is committed.",
        "finish_settled": "A mail job has ended and its parent is settled; nothing is committed.",
        "finish_committed": "The end of the mail job is committed; the shift does not know it.",
        "before_hand_back": "The shift is to end; the mail job is not handed back.",
        "after_hand_back": "The mail job is handed back; the process has not ended.",
        "stop_noticed": "The mailcaster knows that its mail job is to stop and sends nothing more; it is STOPPING.",
        "stop_committed": "The mail job is STOPPED_R; the shift does not know it.",
        "before_giving_up": "The mailcaster gives its mail job up and sends nothing more; it is not FAILED yet.",
        "shift_over": "The end of the shift is noted; nobody was told.",
        # ── the operator ──
        "stop_asked": "A mail job and its children are stopped, or STOPPING; nothing is committed.",
        "stop_asked_committed": "The stop of one mail job is committed; the next one is not looked at.",
        "dead_let_go": "A STOPPING mail job is stopped in the place of its dead mailcaster; not committed.",
        "loose_mails_stopped": "Loose mails of what was stopped are PAUSED; this is not committed.",
        "restart_asked": "A stopped mail job and its children wait to be picked up; nothing is committed.",
        "restart_asked_committed": "The restart of one mail job is committed; the next one is not looked at.",
        # ── beside the mail ──
        "clean_marked": "A mail job whose dedup was cut off is INTERRUPTED; this is not committed.",
        "day_counted": "A day's mails are counted and the day is not closed; nothing is committed.",
        "day_closed": "A day is closed; the next one is not.",
        "counters_rebuilt": "The frequency counters are counted anew for another day; nothing is committed.",
        "places_given_back": "Places of a release's mails that never arrived are given back; nothing is committed.",
        "policy_applied": "Another frequency policy holds, its windows are counted; nothing is committed.",
        "held_mails_chosen": "It is decided which held mails go; nothing is written.",
        "held_mails_released": "Held mails are in later releases, with their places; nothing is committed.",
        "held_mails_committed": "The later releases of held mails are committed; nobody was told.",
        "policy_dropped": "The frequency policy is dropped, all held mails are let go; nothing is committed.",
        "day_given_up": "The releases of a day are marked as dropped; nothing is dropped.",
        "partition_detached": "A partition is out of its table and still there.",
        "partition_dropped": "A partition is dropped; the next one is not.",
        "report_marked": "The report is marked as written; this is not committed.",
    }
)
"""Every place by its name: what has happened there, and what has not."""

_name = ""
_passings_left = 0


def crash_point(name: str) -> None:
    """Here the process dies if CRASH_AT says so."""
    if name == _name:
        _pass_by()


def crash_soon(name: str) -> None:
    """The same at the event loop's next turn: what was written to a transport before has left then."""
    if name == _name:
        asyncio.get_running_loop().call_soon(_pass_by)


def arm(setting: str | None) -> None:
    """Set the place, `name` or `name:passing`; None or '' for none. Raises BadSettings listing the names."""
    global _name, _passings_left
    name, _, passing = (setting or "").partition(":")
    if name and name not in CRASH_POINTS:
        raise BadSettings(
            f"{VARIABLE}: there is no crash point {name!r}; there are {', '.join(CRASH_POINTS)}"
        )
    if passing and not (passing.isascii() and passing.isdecimal() and int(passing) > 0):
        raise BadSettings(f"{VARIABLE}: {passing!r} is not the number of a passing: 1, 2, 3 …")
    _name, _passings_left = name, int(passing or 1)


def _pass_by() -> None:
    global _passings_left
    _passings_left -= 1
    if _passings_left == 0:
        os.write(2, f"{VARIABLE}: this process dies at {_name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE))
