"""What must be there, and what must not, when the course was taken to its end after a crash."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import text

from mail_orchestration.installation import Installation
from mail_orchestration.kernel.states import MailJobState
from tests.scenarios.crash_course import CONNECTIONS, FEW, MANY, SUPPRESSED, expected_at_the_relay
from tests.scenarios.installations import tally
from tests.scenarios.relays.postfix_sink import Sink

MESSAGES = MANY + FEW


def judge(inst: Installation, sink: Sink | None, deaths: int, *, was_too_old: bool) -> None:
    """Nobody is lost, nobody has two results, nothing is left half done."""
    with inst.database.begin() as connection:
        releases = connection.scalars(text("SELECT release_id FROM release")).all()
        states = Counter(connection.scalars(text("SELECT state FROM mail_job WHERE state <> 'RECOVERED'")))
        results = Counter(
            {
                row.outcome: row.messages
                for row in connection.execute(
                    text(
                        "SELECT outcome, count(*) AS messages FROM ("
                        "SELECT DISTINCT ON (release_id, message_no) outcome FROM result "
                        "ORDER BY release_id, message_no, result_no DESC) AS last GROUP BY outcome"
                    )
                )
            }
        )
        half_done = {name: connection.scalar(text(query)) for name, query in HALF_DONE.items()}
        counted = connection.scalar(text("SELECT sum(mails) FROM daily_mail_count"))
    assert len(releases) == 2
    for release_id in releases:
        found = tally(inst, release_id)
        assert (found.waiting, found.sending, found.unassembled, found.bypassed_count) == (0, 0, 0, 0)
    expired = results.pop("expired", 0)
    assert results == {"accepted": MESSAGES - len(SUPPRESSED) - expired, "stopped": len(SUPPRESSED)}
    assert half_done == dict.fromkeys(HALF_DONE, 0)
    assert counted == results["accepted"]
    if was_too_old:
        assert 0 < expired < MESSAGES
        assert states == {
            MailJobState.P_PARTIAL_FINISHED: 1,
            MailJobState.FAILED: 1,
            MailJobState.FINISHED: 4,
        }
        return
    assert expired == 0
    assert states == {MailJobState.P_FINISHED: 1, MailJobState.FINISHED: 5}
    if sink is not None:
        got = sink.tally()
        assert set(got) == expected_at_the_relay()
        assert got.total() - len(got) <= deaths * CONNECTIONS
        assert max(got.values()) <= 1 + deaths
        message_ids = {str(mail["X-Rcpt-Args"]): str(mail["Message-ID"]) for mail in sink.messages()}
        assert len(set(message_ids.values())) == len(got), "a repeat has the Message-ID of what it repeats"
        assert {str(mail["Message-ID"]) for mail in sink.messages()} == set(message_ids.values())


HALF_DONE = {
    "results of one message with one number": """
        SELECT count(*)
        FROM (SELECT FROM result GROUP BY release_id, message_no, result_no HAVING count(*) > 1) AS twice
    """,
    "results that supersede none": """
        SELECT count(*) FROM result
        WHERE supersedes IS NOT NULL AND NOT EXISTS (
            SELECT FROM result AS before
            WHERE before.release_id = result.release_id AND before.message_no = result.message_no
                AND before.result_no = result.result_no - 1 AND before.outcome = result.supersedes
        )
    """,
    "second results of what was at its end": """
        SELECT count(*) FROM result WHERE supersedes NOT IN ('uncertain', 'deferred')
    """,
    "loose mails that are left": "SELECT count(*) FROM loose_mail",
    "retries that are not logged": """
        SELECT count(*)
        FROM (SELECT DISTINCT release_id, message_no FROM result WHERE outcome = 'deferred') AS deferred
        WHERE 1 <> (
            SELECT count(*) FROM delivery_log AS logged
            WHERE logged.release_id = deferred.release_id AND logged.message_no = deferred.message_no
        )
    """,
    "imports of a list that were cut off and not done again": """
        SELECT count(*) FROM audience
        WHERE NOT EXISTS (
            SELECT FROM audience_import AS done
            WHERE done.audience_id = audience.audience_id AND done.finished_at IS NOT NULL
        )
    """,
    "members whom no finished import named": """
        SELECT count(*) FROM audience_member INNER JOIN audience_import USING (import_id) WHERE finished_at IS NULL
    """,
    "members too many or too few": f"SELECT count(*) - {MANY + FEW} FROM audience_member",
    "recipients without a message": """
        SELECT count(*) FROM recipient
        WHERE NOT EXISTS (
            SELECT FROM assembled_message AS message
            WHERE message.release_id = recipient.release_id AND message.recipient_no = recipient.recipient_no
        )
    """,
    "releases without a report": "SELECT count(*) FROM release WHERE reported_at IS NULL OR assembled_at IS NULL",
    "shifts that are not over": "SELECT count(*) FROM mailcaster_shift WHERE ended_at IS NULL",
    "places in the frequency counters that are left": "SELECT count(*) FROM frequency_counter WHERE places <> 0",
    "frequency counters that are not what the daily log adds up to": """
        SELECT count(*) FROM frequency_counter AS counter
        WHERE mails_1 <> (
            SELECT coalesce(sum(mails), 0) FROM daily_mail_count WHERE contact_id = counter.contact_id
        )
    """,
    "figures of mail jobs that are not those of their results": """
        SELECT count(*) FROM mail_job
        WHERE kind <> 'parent' AND accepted <> (
            SELECT count(*) FROM result WHERE result.mail_job_id = mail_job.mail_job_id AND outcome = 'accepted'
        )
    """,
}
"""Each counts what there must be none of."""
