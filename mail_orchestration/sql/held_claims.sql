-- Statements of dispatch/held_claim.py, unsent.py, repeating.py and settling.py: from a claim to its end.

-- name: hold_mail_job
-- Keep the lock of a mail job's holder for as long as this session lives.
SELECT pg_advisory_lock(hashtextextended('mail_orchestration.mail_job', CAST(:mail_job_id AS bigint)));

-- name: beat_heart
-- The holder of a mail job lives.
UPDATE mail_job SET heartbeat_at = CAST(:now AS timestamptz)
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
RETURNING state;

-- name: look_at_claim
-- What state a mail job in hand is in: its holder looks for a stop between two heartbeats.
SELECT state FROM mail_job
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint);

-- name: record_progress
-- How far the holder of a mail job is. The commit does not wait for the disk, as results do that wait for this row's lock:
-- after a crash of the database recovery counts anew.
WITH hurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', TRUE))
UPDATE mail_job
SET accepted = CAST(:accepted AS integer), deferred = CAST(:deferred AS integer), rejected = CAST(:rejected AS integer),
    uncertain = CAST(:uncertain AS integer), stopped = CAST(:stopped AS integer)
FROM hurried
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
RETURNING state;

-- name: hand_back_mail_job
-- The holder goes without having finished: its last heartbeat is taken away, so that the mail job hangs at once. By this
-- moment (HANDED_BACK_AT) it is known as handed back. From now on nothing is written under the old fence: of a session that
-- was lost the server may still have a flush to read.
UPDATE mail_job SET heartbeat_at = to_timestamp(0), fence = fence + 1
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
RETURNING fence;

-- name: count_unsent
-- How many messages of a range have no result.
SELECT count(*)
FROM generate_series(CAST(:first_message AS integer), CAST(:last_message AS integer)) AS message (message_no)
WHERE NOT EXISTS (
    SELECT FROM result
    WHERE result.released_on = CAST(:released_on AS date) AND result.release_id = CAST(:release_id AS bigint)
        AND result.message_no = message.message_no
        AND result.message_no BETWEEN CAST(:first_message AS integer) AND CAST(:last_message AS integer)
);

-- name: count_recorded_progress
-- What a mail job recorded in all, now that it can record no more: its holder's last figures may be of before that.
-- Less what it superseded, so that the figures of a recovery chain add up; one of them alone can be below zero. LATERAL:
-- as a plain join it was read by the release alone, a million rows for each child.
WITH found AS (
    SELECT counted.*
    FROM (
        SELECT mail_job_id, release_id, first_message, last_message,
            (SELECT released_on FROM release WHERE release.release_id = mail_job.release_id) AS released_on
        FROM mail_job
        WHERE mail_job_id = CAST(:mail_job_id AS bigint)
    ) AS ended
    CROSS JOIN LATERAL (
        SELECT
            count(*) FILTER (WHERE result.outcome = 'accepted')
                - count(*) FILTER (WHERE result.supersedes = 'accepted') AS accepted,
            count(*) FILTER (WHERE result.outcome = 'deferred')
                - count(*) FILTER (WHERE result.supersedes = 'deferred') AS deferred,
            count(*) FILTER (WHERE result.outcome = 'rejected')
                - count(*) FILTER (WHERE result.supersedes = 'rejected') AS rejected,
            count(*) FILTER (WHERE result.outcome = 'uncertain')
                - count(*) FILTER (WHERE result.supersedes = 'uncertain') AS uncertain,
            count(*) FILTER (WHERE result.outcome = 'stopped')
                - count(*) FILTER (WHERE result.supersedes = 'stopped') AS stopped
        FROM result
        WHERE result.released_on = ended.released_on AND result.release_id = ended.release_id
            AND result.message_no BETWEEN ended.first_message AND ended.last_message
            AND result.mail_job_id = ended.mail_job_id
    ) AS counted
)
UPDATE mail_job
SET accepted = found.accepted, deferred = found.deferred, rejected = found.rejected, uncertain = found.uncertain,
    stopped = found.stopped
FROM found
WHERE mail_job.mail_job_id = CAST(:mail_job_id AS bigint) AND mail_job.state IN ('RECOVERED', 'FAILED', 'FINISHED', 'STOPPED_R', 'RECOVERING');

-- name: lock_parent
-- Lock a parent before one of its children ends, so that of two that end at once the second sees the first.
SELECT state FROM mail_job WHERE mail_job_id = CAST(:parent_id AS bigint) FOR NO KEY UPDATE;

-- name: end_running
-- The holder is done with a mail job: it ends. Where a stop was asked for meanwhile only what is complete ends; the rest
-- is stopped, or waits to be picked up if it was restarted since.
UPDATE mail_job
SET state = CASE
        WHEN state = 'RUNNING' OR CAST(:enters AS mail_job_state) = 'FINISHED' THEN CAST(:enters AS mail_job_state)
        WHEN asked_state = 'RECOVERING' THEN 'RECOVERING'
        ELSE 'STOPPED_R'
    END,
    ended_at = CASE
        WHEN state = 'RUNNING' OR CAST(:enters AS mail_job_state) = 'FINISHED' THEN CAST(:now AS timestamptz)
    END,
    asked_state = NULL,
    heartbeat_at = CAST(:now AS timestamptz),
    reason = :reason
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
RETURNING state;

-- name: end_stopping
-- The holder let go of a mail job that was to be stopped; if it was restarted since, it waits to be picked up.
UPDATE mail_job
SET state = CASE WHEN asked_state = 'RECOVERING' THEN CAST('RECOVERING' AS mail_job_state) ELSE 'STOPPED_R' END,
    asked_state = NULL, heartbeat_at = CAST(:now AS timestamptz)
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state = 'STOPPING' AND fence = CAST(:fence AS bigint)
RETURNING state;

-- name: find_canary
-- How the first messages of a parent fared, once all of them are in children that have ended: nothing for a parent that
-- has no canary, or whose canary was judged before.
SELECT parent.next_message - parent.first_message AS messages, release.canary_most_rejected AS most_rejected,
    children.failure,
    (
        SELECT count(*) FILTER (WHERE result.outcome = 'rejected') - count(*) FILTER (WHERE result.supersedes = 'rejected')
        FROM result
        WHERE result.released_on = release.released_on AND result.release_id = release.release_id
            AND result.message_no BETWEEN parent.first_message AND parent.next_message - 1
    ) AS rejected
FROM mail_job AS parent
INNER JOIN release ON parent.release_id = release.release_id
CROSS JOIN LATERAL (
    SELECT bool_and(child.state IN ('FINISHED', 'FAILED')) AS all_ended,
        max(child.reason) FILTER (WHERE child.state = 'FAILED') AS failure
    FROM mail_job AS child
    WHERE child.parent_id = parent.mail_job_id AND child.state <> 'RECOVERED'
) AS children
WHERE parent.mail_job_id = CAST(:parent_id AS bigint) AND parent.state = 'P_ASSIGNING'
    AND parent.canary_messages IS NOT NULL AND children.all_ended;

-- name: end_canary
-- The canary of a parent is judged: the rest may follow, unless the parent is stopped.
UPDATE mail_job SET canary_messages = NULL WHERE mail_job_id = CAST(:parent_id AS bigint);

-- name: settle_parent
-- A parent whose messages are all in children ends with the last effective child (replaced ones count for nothing), a
-- stopped one too: there is nothing left to stop.
UPDATE mail_job
SET state = CASE
        WHEN children.all_finished THEN CAST('P_FINISHED' AS mail_job_state)
        WHEN children.all_failed THEN 'P_FAILED'
        ELSE 'P_PARTIAL_FINISHED'
    END,
    ended_at = CAST(:now AS timestamptz)
FROM (
    SELECT bool_and(state = 'FINISHED') AS all_finished, bool_and(state = 'FAILED') AS all_failed,
        bool_and(state IN ('FINISHED', 'FAILED')) AS all_ended
    FROM mail_job
    WHERE parent_id = CAST(:parent_id AS bigint) AND state <> 'RECOVERED'
) AS children
WHERE mail_job.mail_job_id = CAST(:parent_id AS bigint) AND mail_job.state IN ('P_ASSIGNED', 'STOPPED_R')
    AND mail_job.next_message > mail_job.last_message AND children.all_ended
RETURNING mail_job.state;

-- name: find_unsent
-- The first messages of a range without a result. Both sides name the range, so that no plan reads beyond it.
SELECT message.message_no, message.recipient_no, message.contact_id, message.address, message.size,
    message.place_in_block, suppressed.reason IS NOT NULL AS is_suppressed
FROM assembled_message AS message
LEFT JOIN LATERAL (
    SELECT suppression.reason
    FROM suppression
    WHERE suppression.contact_id = message.contact_id
        AND suppression.topic IN ('', (SELECT topic FROM release WHERE release_id = CAST(:release_id AS bigint)))
    LIMIT 1
) AS suppressed ON TRUE
WHERE message.released_on = CAST(:released_on AS date) AND message.release_id = CAST(:release_id AS bigint)
    AND message.message_no > CAST(:after AS integer) AND message.message_no <= CAST(:up_to AS integer)
    AND NOT EXISTS (
        SELECT FROM result
        WHERE result.released_on = CAST(:released_on AS date) AND result.release_id = CAST(:release_id AS bigint)
            AND result.message_no = message.message_no
            AND result.message_no > CAST(:after AS integer) AND result.message_no <= CAST(:up_to AS integer)
    )
ORDER BY message.message_no
LIMIT CAST(:most AS integer);

-- name: find_uncertain
-- The first messages of a range that are uncertain and may be sent once more: fewer attempts than the most were made.
SELECT message.message_no, message.recipient_no, message.contact_id, message.address, message.size,
    message.place_in_block, suppressed.reason IS NOT NULL AS is_suppressed, uncertain.result_no
FROM uncertain_message AS uncertain
INNER JOIN assembled_message AS message
    ON uncertain.released_on = message.released_on AND uncertain.release_id = message.release_id
        AND uncertain.message_no = message.message_no
LEFT JOIN LATERAL (
    SELECT suppression.reason
    FROM suppression
    WHERE suppression.contact_id = message.contact_id
        AND suppression.topic IN ('', (SELECT topic FROM release WHERE release_id = CAST(:release_id AS bigint)))
    LIMIT 1
) AS suppressed ON TRUE
WHERE uncertain.released_on = CAST(:released_on AS date) AND uncertain.release_id = CAST(:release_id AS bigint)
    AND uncertain.message_no > CAST(:after AS integer) AND uncertain.message_no <= CAST(:up_to AS integer)
    AND uncertain.may_be_repeated AND uncertain.result_no < CAST(:most_attempts AS integer)
ORDER BY uncertain.message_no
LIMIT CAST(:most AS integer);

-- name: count_uncertain
-- How many of them there are in a range.
SELECT count(*)
FROM uncertain_message AS uncertain
WHERE uncertain.released_on = CAST(:released_on AS date) AND uncertain.release_id = CAST(:release_id AS bigint)
    AND uncertain.message_no BETWEEN CAST(:first_message AS integer) AND CAST(:last_message AS integer)
    AND uncertain.may_be_repeated AND uncertain.result_no < CAST(:most_attempts AS integer);
