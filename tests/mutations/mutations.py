"""The promises of delivery, and for each the edit that breaks it.

A mutation is an edit of the package's text, made in a copy of the project. What it replaces must be there exactly once,
so that it cannot outlive the code that it was written for. The tests named beside it must fail on it: they are the
quickest that do, and what they show does not rest on luck with timing, nor on what is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One way to break a promise."""

    promise: str
    file: str
    """In the package."""
    old: str
    new: str
    caught_by: str
    """Tests of which at least one fails."""


MUTATIONS: dict[str, Mutation] = {
    "a result is called durable when it is handed over": Mutation(
        promise="5.1",
        file="feedback/results_log.py",
        old="        self._gathering.append((result, future))\n",
        new="        self._gathering.append((result, future))\n        future.set_result(None)\n",
        caught_by="tests/integration/test_feedback_results_log_is_fenced.py::"
        "test_who_takes_the_mail_job_away_waits_for_a_flush_and_then_reads_its_results",
    ),
    "another trouble hides that results were not written": Mutation(
        promise="5.1",
        file="feedback/results_log.py",
        old=" and not is_left_alone:",
        new=" and error is None:",
        caught_by="tests/scenarios/test_results_are_written_late.py -k fails_while",
    ),
    "the next body leaves before the last result is durable": Mutation(
        promise="5.1",
        file="egress/results.py",
        old="            await pending\n",
        new="",
        caught_by="tests/scenarios/test_relay_and_stop.py::test_no_body_begins_before_the_last_result_is_durable",
    ),
    "results are taken under any fence": Mutation(
        promise="5.5",
        file="sql/results.sql",
        old=" AND fence = CAST(:fence AS bigint)\n    FOR SHARE\n)\nINSERT",
        new="\n    FOR SHARE\n)\nINSERT",
        caught_by="tests/integration/test_feedback_results_log_is_fenced.py::"
        "test_a_fence_that_moved_ends_everything_that_waits[accepted]",
    ),
    "results that are followed up are taken under any fence": Mutation(
        promise="5.5",
        file="sql/results.sql",
        old=" AND fence = CAST(:fence AS bigint)\n    FOR SHARE\n),\ngiven",
        new="\n    FOR SHARE\n),\ngiven",
        caught_by="tests/integration/test_feedback_results_log_is_fenced.py::"
        "test_a_fence_that_moved_ends_everything_that_waits[deferred]",
    ),
    "results do not lock the mail job": Mutation(
        promise="5.5",
        file="sql/results.sql",
        old=" AND fence = CAST(:fence AS bigint)\n    FOR SHARE\n)\nINSERT",
        new=" AND fence = CAST(:fence AS bigint)\n)\nINSERT",
        caught_by="tests/integration/test_feedback_results_log_is_fenced.py::"
        "test_a_flush_waits_for_who_takes_the_mail_job_away_and_then_sees_the_new_fence[accepted]",
    ),
    "results that are followed up do not lock the mail job": Mutation(
        promise="5.5",
        file="sql/results.sql",
        old=" AND fence = CAST(:fence AS bigint)\n    FOR SHARE\n),\ngiven",
        new=" AND fence = CAST(:fence AS bigint)\n),\ngiven",
        caught_by="tests/integration/test_feedback_results_log_is_fenced.py::"
        "test_a_flush_waits_for_who_takes_the_mail_job_away_and_then_sees_the_new_fence[deferred]",
    ),
    "recovery does not ask for the holder's lock": Mutation(
        promise="5.3",
        file="dispatch/recovery.py",
        old="    if holder_is_gone(connection, candidate.mail_job_id):\n",
        new="    if holder_is_gone(connection, candidate.mail_job_id) is not None:\n",
        caught_by="tests/integration/test_dispatch_recovery.py::"
        "test_a_restarted_one_is_passed_over_while_its_old_holder_is_letting_go",
    ),
    "what was claimed counts as done": Mutation(
        promise="5.3",
        file="sql/claims.sql",
        old="first_message, last_message, :mailcaster, fence, CAST(:now AS timestamptz)\n    FROM old",
        new="last_message, last_message, :mailcaster, fence, CAST(:now AS timestamptz)\n    FROM old",
        caught_by="tests/integration/test_dispatch_recovery.py::"
        "test_a_hanging_child_becomes_a_new_one_of_what_was_not_sent",
    ),
    "what was read to be sent counts as sent": Mutation(
        promise="5.1",
        file="mailcaster/message_feed.py",
        old='        crash_point("suppressed_recorded")\n',
        new='        crash_point("suppressed_recorded")\n'
        '        await self._set_aside(Outcome.ACCEPTED, "", unsent.to_send)\n',
        caught_by="tests/scenarios/test_crash_points.py -k before_body",
    ),
    "a mail job is finished though messages have no result": Mutation(
        promise="3.7",
        file="dispatch/held_claim.py",
        old="            if unsent:\n",
        new="            if unsent < 0:\n",
        caught_by="tests/integration/test_dispatch_held_claim.py::"
        "test_it_finishes_only_when_every_message_has_a_result",
    ),
    "a mail job is finished though uncertain messages are to be sent again": Mutation(
        promise="5.7",
        file="mailcaster/delivery.py",
        old="held.finish(now, most_attempts=self._most_attempts)",
        new="held.finish(now)",
        caught_by="tests/scenarios/test_uncertain_ones_wait.py -k nothing",
    ),
    "recovery forgets what its predecessor left uncertain": Mutation(
        promise="5.7",
        file="mailcaster/repeats.py",
        old="self._may_be_any = claim.recovers_id is not None",
        new="self._may_be_any = False",
        caught_by="tests/integration/test_mailcaster_repeats.py::"
        "test_whoever_recovers_a_mail_job_looks_for_what_was_left_uncertain",
    ),
    "a message that is sent again counts twice": Mutation(
        promise="1.8",
        file="sql/feedback.sql",
        old="SELECT line, CAST(supersedes AS text), -number FROM fate",
        new="SELECT line, CAST(supersedes AS text), 0 FROM fate",
        caught_by="tests/integration/test_feedback_books.py -k several_states",
    ),
    "a message that is sent again counts twice for its contact": Mutation(
        promise="8.2",
        file="sql/daily_counts.sql",
        old="            r.result_no = 1\n",
        new="            r.result_no >= 1\n",
        caught_by="tests/integration/test_feedback_daily_counts.py -k uncertain",
    ),
    "two gates do not wait for each other": Mutation(
        promise="8.8",
        file="audience/frequency_gate.py",
        old="        lock_frequency(connection, release.installation_id)\n",
        new="        pass\n",
        caught_by="tests/integration/test_frequency_gates_at_once.py::"
        "test_the_second_gate_waits_for_the_first_and_sees_whom_it_let_through",
    ),
    "a place is given back each time that it is looked at": Mutation(
        promise="8.2",
        file="sql/frequency.sql",
        old="e.contact_id FROM ended AS e\n    ON CONFLICT DO NOTHING\n",
        new="e.contact_id FROM ended AS e\n    ON CONFLICT (release_id, contact_id, released_on) DO UPDATE "
        "SET contact_id = excluded.contact_id\n",
        caught_by="tests/integration/test_frequency_places.py::"
        "test_what_never_arrives_gives_its_place_back_and_what_may_have_arrived_keeps_it",
    ),
    "a mail that is in the daily log keeps its place": Mutation(
        promise="8.2",
        file="sql/daily_counts.sql",
        old="    -g.more_placed\n",
        new="    0\n",
        caught_by="tests/integration/test_frequency_places.py::"
        "test_the_close_of_the_day_moves_places_into_the_log_once",
    ),
    "a parent does not end with its last child": Mutation(
        promise="3.2",
        file="dispatch/settling.py",
        old='        settle_parent(connection, claim.parent_id, now)\n    crash_point("finish_settled")',
        new='    crash_point("finish_settled")',
        caught_by="tests/integration/test_dispatch_parents_end.py::test_a_parent_ends_with_its_last_child",
    ),
    "a child's end does not lock the parent": Mutation(
        promise="3.2",
        file="dispatch/settling.py",
        old='connection.execute(STATEMENTS["lock_parent"], {"parent_id": claim.parent_id})',
        new='STATEMENTS["lock_parent"]',
        caught_by="tests/integration/test_dispatch_parents_end.py::test_the_second_of_two_that_end_sees_the_first",
    ),
    "the hang time is ignored": Mutation(
        promise="5.2",
        file="dispatch/claims.py",
        old="hung_before=now - timedelta(seconds=hang_after_s),",
        new="hung_before=now + timedelta(seconds=hang_after_s),",
        caught_by="tests/integration/test_dispatch_recovery.py::test_a_heartbeat_keeps_it",
    ),
    "who was suspended goes on sending": Mutation(
        promise="5.5",
        file="egress/connection.py",
        old="if self._is_ending() or not self._may_send():",
        new="if self._is_ending():",
        caught_by="tests/scenarios/test_relay_sessions_are_kept.py::test_no_body_leaves_once_the_lease_is_over",
    ),
    "what nobody looked at leaves without a look": Mutation(
        promise="2.4",
        file="egress/session.py",
        old="lines is Lines.UNSEEN",
        new="lines is Lines.FIT",
        caught_by="tests/scenarios/test_lines_are_looked_at.py",
    ),
    "8-bit data pass for ASCII": Mutation(
        promise="2.4",
        file="kernel/message_lines.py",
        old=" and data.isascii() else Lines.FIT",
        new=" else Lines.FIT",
        caught_by="tests/unit/test_lines_are_known.py",
    ),
    "what was altered since it was looked at is taken for the same": Mutation(
        promise="2.4",
        file="composition/compression.py",
        old="write_checksum=True",
        new="write_checksum=False",
        caught_by="tests/unit/test_lines_are_known.py",
    ),
    "a stop does not wait for a claim that is being made": Mutation(
        promise="5.6",
        file="sql/operating.sql",
        old="WHERE mail_job_id = CAST(:mail_job_id AS bigint)\nFOR NO KEY UPDATE;",
        new="WHERE mail_job_id = CAST(:mail_job_id AS bigint);",
        caught_by="tests/integration/test_operator_stops_in_that_moment.py::"
        "test_a_child_made_in_the_moment_of_the_stop_does_not_slip_through",
    ),
    "an opt-out after assembly is not looked at": Mutation(
        promise="1.5",
        file="dispatch/unsent.py",
        old="to_send = [row[:-1] for row in rows if not row[-1]]",
        new="to_send = [row[:-1] for row in rows]",
        caught_by="tests/integration/test_mailcaster_ends_a_mail_job.py::"
        "test_opt_outs_and_expiry_after_assembly_are_honoured",
    ),
    "slots that may still be used late are forgotten when the line becomes less patient": Mutation(
        promise="6.7",
        file="egress/slots.py",
        old=" + max(0, self.lateness - pace.lateness)",
        new="",
        caught_by="tests/unit/test_egress_slots.py -k from_patient",
    ),
    "a slot stays open for longer than the limit allows": Mutation(
        promise="6.7",
        file="egress/slots_at_hand.py",
        old="shuts = held.opens + held.slice.lateness_s",
        new="shuts = held.opens + held.slice.lateness_s + 1",
        caught_by="tests/unit/test_egress_gate_keeps_slots.py::test_a_slot_is_used_until_its_lateness_is_over",
    ),
    "a contact of two audiences is two recipients": Mutation(
        promise="1.3",
        file="sql/audience.sql",
        old="        GROUP BY am.contact_id\n    ) AS m\n),\nstored AS",
        new="        GROUP BY am.contact_id, am.audience_id\n    ) AS m\n),\nstored AS",
        caught_by="tests/integration/test_audience_resolving.py::"
        "test_a_contact_of_several_audiences_is_one_recipient_with_the_first_ones_details",
    ),
    "dedup that is slow is called interrupted": Mutation(
        promise="1.3",
        file="audience/resolving.py",
        old="if is_free and connection",
        new="if connection",
        caught_by="tests/integration/test_audience_resolving_is_cut_off.py::"
        "test_dedup_that_was_killed_is_interrupted_and_can_be_done_again",
    ),
    "a release that is asked for again is made again": Mutation(
        promise="2.1",
        file="broadcast/releasing.py",
        old="            if found is not None:\n                return releases.read_release",
        new="            if found == 0:\n                return releases.read_release",
        caught_by="tests/scenarios/test_campaign_reaches_everybody.py",
    ),
    "assembly begins anew after a crash": Mutation(
        promise="2.7",
        file="broadcast/assembling.py",
        old="        self._up_to = self._release.assembled_up_to\n",
        new="        self._up_to = 0\n",
        caught_by="tests/integration/test_broadcast_assembling.py::test_assembly_goes_on_where_it_was_cut_off",
    ),
    "a repeat supersedes nothing": Mutation(
        promise="5.7",
        file="mailcaster/repeats.py",
        old="        return result.superseding(Outcome.UNCERTAIN, last + 1)\n",
        new="        return result\n",
        caught_by="tests/integration/test_mailcaster_repeats.py::"
        "test_an_attempt_has_the_next_number_and_supersedes_the_one_before",
    ),
    "what is uncertain is forgotten at the end of a mail job": Mutation(
        promise="5.7",
        file="mailcaster/delivery.py",
        old="                relay_errors |= await self._send_again(feed)\n",
        new="",
        caught_by="tests/scenarios/test_uncertain_ones_wait.py -k nothing",
    ),
    "a connection lost after the final dot counts as unsent": Mutation(
        promise="5.7",
        file="egress/connection.py",
        old="        if session.dot_written:\n",
        new="        if session.dot_written and not why:\n",
        caught_by="tests/scenarios/test_relay_drops_the_connection.py::"
        "test_after_the_dot_it_is_uncertain_and_not_sent_again",
    ),
    "a dead holder's last results are not counted": Mutation(
        promise="1.8",
        file="dispatch/recovery.py",
        old="        bring_figures_up_to_date(connection, candidate.mail_job_id)\n        crash_point",
        new="        crash_point",
        caught_by="tests/integration/test_dispatch_recovery.py::"
        "test_a_dead_holders_figures_are_those_of_its_last_results",
    ),
    "what is written late is not looked for before": Mutation(
        promise="5.1",
        file="feedback/results_log.py",
        old="if (each.message_no, each.result_no) not in there]",
        new="]",
        caught_by="tests/integration/test_feedback_results_log.py::test_what_is_written_late_is_written_once",
    ),
    "who hands back goes on under the old fence": Mutation(
        promise="5.5",
        file="sql/held_claims.sql",
        old="SET heartbeat_at = to_timestamp(0), fence = fence + 1\n",
        new="SET heartbeat_at = to_timestamp(0)\n",
        caught_by="tests/integration/test_dispatch_recovery.py::test_who_has_handed_back_holds_nothing_more",
    ),
    "what the database's absence kept from being written is forgotten": Mutation(
        promise="5.1",
        file="mailcaster/delivery.py",
        old="self._held.hand_back(self._results.write_late)",
        new="self._held.hand_back()",
        caught_by="tests/scenarios/test_results_are_written_late.py::test_what_a_mailcaster_sent_is_not_sent_again",
    ),
    "what it kept of loose mails is forgotten": Mutation(
        promise="6.3",
        file="sending/loose_log.py",
        old="        if not self._unwritten or not isinstance",
        new="        if self._unwritten or not isinstance",
        caught_by="tests/scenarios/test_results_are_written_late.py::test_a_single_mail_that_was_sent_is_not_sent_again",
    ),
}
