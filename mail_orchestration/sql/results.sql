-- Statements of feedback/results_log.py and loose_results.py: what became of attempts, durably (spec 5.1).

-- name: append_results
-- One flush of the results log: every row, or none when the mail job is no longer held under this fence. The row lock
-- makes whoever takes the mail job away wait until this flush has committed, or makes this flush see the new fence.
WITH held AS (
    SELECT FROM mail_job
    WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
    FOR SHARE
)
INSERT INTO result (
    released_on, release_id, mail_job_id,
    message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, result_no, supersedes
)
SELECT
    CAST(:released_on AS date), CAST(:release_id AS bigint), CAST(:mail_job_id AS bigint),
    r.message_no, r.contact_id, r.occurred_at, r.outcome, r.reply_code, r.enhanced_code, r.reply_text, r.relay,
    r.result_no, r.supersedes
FROM unnest(
    CAST(:message_nos AS integer[]), CAST(:contact_ids AS bigint[]), CAST(:moments AS timestamptz[]),
    CAST(:outcomes AS outcome[]), CAST(:reply_codes AS smallint[]), CAST(:enhanced_codes AS text[]),
    CAST(:reply_texts AS text[]), CAST(:relays AS text[]), CAST(:result_nos AS smallint[]), CAST(:superseded AS outcome[])
) AS r (
    message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, result_no, supersedes
)
WHERE EXISTS (SELECT FROM held);

-- name: append_results_and_follow_up
-- A flush as above, for one that holds what must be followed up in the same commit: a deferred message becomes a loose mail
-- that makes its next attempt, a dead letter if the most were made (6.3, 6.4); an address that a relay said takes no mail
-- is suppressed. 421 is no attempt. In order of contacts, as everybody suppresses, so that two wait for each other at most.
WITH held AS (
    SELECT installation_id FROM mail_job
    WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
    FOR SHARE
),
given AS (
    SELECT r.*
    FROM unnest(
        CAST(:message_nos AS integer[]), CAST(:contact_ids AS bigint[]), CAST(:moments AS timestamptz[]),
        CAST(:outcomes AS outcome[]), CAST(:reply_codes AS smallint[]), CAST(:enhanced_codes AS text[]),
        CAST(:reply_texts AS text[]), CAST(:relays AS text[]), CAST(:result_nos AS smallint[]),
        CAST(:superseded AS outcome[]), CAST(:hard_bounces AS boolean[])
    ) AS r (
        message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, result_no, supersedes,
        is_hard_bounce
    )
    WHERE EXISTS (SELECT FROM held)
),
retried AS (
    INSERT INTO loose_mail (
        installation_id, kind, state, priority, created_at, due_at, expires_at, attempts, campaign_id, contact_id, address,
        topic, released_on, release_id, message_no, mail_job_id, result_no, last_outcome, reply_code, enhanced_code,
        reply_text, relay, description
    )
    SELECT
        held.installation_id, 'retry',
        CASE WHEN a.attempts < CAST(:most_attempts AS integer) THEN CAST('SCHEDULED' AS loose_mail_state) ELSE 'FAILED' END,
        j.priority, g.occurred_at,
        g.occurred_at + make_interval(secs => CAST(:retry_after_s AS double precision)), release.expires_at, a.attempts,
        release.campaign_id, g.contact_id, m.address, release.topic, m.released_on, m.release_id, g.message_no,
        CAST(:mail_job_id AS bigint), g.result_no, g.outcome, g.reply_code, g.enhanced_code, g.reply_text, g.relay,
        CASE WHEN a.attempts >= CAST(:most_attempts AS integer) THEN 'the most attempts were made' END
    FROM given AS g
    CROSS JOIN held
    INNER JOIN assembled_message AS m
        ON m.released_on = CAST(:released_on AS date) AND m.release_id = CAST(:release_id AS bigint)
            AND m.message_no = g.message_no
    INNER JOIN release ON release.release_id = m.release_id
    INNER JOIN mail_job AS j ON j.mail_job_id = m.release_id
    CROSS JOIN LATERAL (
        SELECT g.result_no - CASE WHEN g.reply_code = 421 THEN 1 ELSE 0 END AS attempts
    ) AS a
    WHERE g.outcome = 'deferred'
    ON CONFLICT (release_id, message_no) WHERE kind = 'retry' DO NOTHING
),
suppressed AS (
    INSERT INTO suppression (contact_id, reason, detail, suppressed_at)
    SELECT g.contact_id, 'hard_bounce', concat_ws(' ', g.reply_code, g.enhanced_code), g.occurred_at
    FROM given AS g
    INNER JOIN contact ON contact.contact_id = g.contact_id
    WHERE g.is_hard_bounce
    ORDER BY g.contact_id
    ON CONFLICT (contact_id, topic) DO NOTHING
)
INSERT INTO result (
    released_on, release_id, mail_job_id,
    message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, result_no, supersedes
)
SELECT
    CAST(:released_on AS date), CAST(:release_id AS bigint), CAST(:mail_job_id AS bigint),
    g.message_no, g.contact_id, g.occurred_at, g.outcome, g.reply_code, g.enhanced_code, g.reply_text, g.relay,
    g.result_no, g.supersedes
FROM given AS g;

-- name: find_recorded_results
-- Which results a mail job has of these messages: whoever lost the session of a flush does not know whether it was written.
SELECT message_no, result_no FROM result
WHERE released_on = CAST(:released_on AS date) AND release_id = CAST(:release_id AS bigint)
    AND mail_job_id = CAST(:mail_job_id AS bigint) AND message_no = ANY(CAST(:message_nos AS integer[]));

-- name: require_durable_commits
-- A session whose database or user was set to lose the last commits in a crash is set right; stronger settings stay.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';

-- name: lock_mail_jobs_of_retries
-- The mail jobs under which results of retries are about to be written: their figures change with them.
SELECT mail_job_id FROM mail_job WHERE mail_job_id = ANY(CAST(:mail_job_ids AS bigint[]))
ORDER BY mail_job_id
FOR NO KEY UPDATE;

-- name: lock_releases_of_retries
-- Their releases: of two workers that end the last two retries of one, the second sees the first.
SELECT release_id FROM release WHERE release_id = ANY(CAST(:release_ids AS bigint[]))
ORDER BY release_id
FOR NO KEY UPDATE;

-- name: record_loose_results
-- What became of attempts at loose mails, of those that are still reserved under the fence: the others are somebody else's
-- by now, and nothing of them is written. A retry's is a result of its message, and the mail job's figures go with it.
-- What has come to an end moves to the delivery log, with what it said; the rest waits for its next attempt or is a dead
-- letter. What did not leave is forgotten by the queue history, so that it can be submitted anew; what waited for more than
-- an hour before it left is taken up anew, or the history of it would be over too soon. Where it was the last one of a release
-- that waited, that is reported on once more. Returns the numbers of those that were written.
WITH given AS (
    SELECT *
    FROM unnest(
        CAST(:loose_mail_ids AS bigint[]), CAST(:fences AS bigint[]), CAST(:moments AS timestamptz[]),
        CAST(:outcomes AS outcome[]), CAST(:reply_codes AS smallint[]), CAST(:enhanced_codes AS text[]),
        CAST(:reply_texts AS text[]), CAST(:relays AS text[]), CAST(:hard_bounces AS boolean[]),
        CAST(:entered AS loose_mail_state[]), CAST(:due AS timestamptz[]), CAST(:counted AS boolean[]),
        CAST(:codes AS text[]), CAST(:descriptions AS text[])
    ) AS g (
        loose_mail_id, fence, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay, is_hard_bounce, enters,
        next_at, is_counted, code, description
    )
),
held AS (
    SELECT
        l.loose_mail_id, l.installation_id, l.kind, l.asked_state, l.created_at, l.campaign_id, l.contact_id, l.address,
        l.released_on, l.release_id, l.message_no, l.mail_job_id, l.result_no, l.last_outcome, l.history_key, l.size,
        CAST(l.attempts + CASE WHEN g.is_counted AND g.relay <> '' THEN 1 ELSE 0 END AS smallint) AS attempts,
        g.occurred_at, g.outcome, g.reply_code, g.enhanced_code, g.reply_text, g.relay, g.is_hard_bounce, g.enters,
        g.next_at, g.is_counted, g.code, g.description,
        coalesce(g.enters = 'FAILED', g.outcome NOT IN ('stopped', 'expired')) AND l.history_key IS NOT NULL
            AND coalesce(l.remembered_at, l.created_at) < g.occurred_at - INTERVAL '1 hour' AS is_late
    FROM loose_mail AS l
    INNER JOIN given AS g ON g.loose_mail_id = l.loose_mail_id AND g.fence = l.fence
    WHERE l.state = 'SENDING'
    ORDER BY l.loose_mail_id
    FOR NO KEY UPDATE OF l
),
recorded AS (
    INSERT INTO result (
        released_on, release_id, mail_job_id, message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code,
        reply_text, relay, result_no, supersedes
    )
    SELECT
        h.released_on, h.release_id, h.mail_job_id, h.message_no, h.contact_id, h.occurred_at, h.outcome, h.reply_code,
        h.enhanced_code, h.reply_text, h.relay, h.result_no + 1, h.last_outcome
    FROM held AS h
    WHERE h.kind = 'retry' AND h.is_counted
    RETURNING mail_job_id, outcome, supersedes
),
figures AS (
    UPDATE mail_job
    SET accepted = mail_job.accepted + f.accepted, deferred = mail_job.deferred + f.deferred,
        rejected = mail_job.rejected + f.rejected, uncertain = mail_job.uncertain + f.uncertain,
        stopped = mail_job.stopped + f.stopped
    FROM (
        SELECT
            mail_job_id,
            CAST(count(*) FILTER (WHERE outcome = 'accepted') AS integer) AS accepted,
            CAST(count(*) FILTER (WHERE outcome = 'deferred') - count(*) FILTER (WHERE supersedes = 'deferred') AS integer)
                AS deferred,
            CAST(count(*) FILTER (WHERE outcome = 'rejected') AS integer) AS rejected,
            CAST(count(*) FILTER (WHERE outcome = 'uncertain') - count(*) FILTER (WHERE supersedes = 'uncertain') AS integer)
                AS uncertain,
            CAST(count(*) FILTER (WHERE outcome = 'stopped') AS integer) AS stopped
        FROM recorded
        GROUP BY mail_job_id
    ) AS f
    WHERE mail_job.mail_job_id = f.mail_job_id
),
suppressed AS (
    INSERT INTO suppression (contact_id, reason, detail, suppressed_at)
    SELECT h.contact_id, 'hard_bounce', concat_ws(' ', h.reply_code, h.enhanced_code), h.occurred_at
    FROM held AS h
    INNER JOIN contact ON contact.contact_id = h.contact_id
    WHERE h.is_hard_bounce
    ORDER BY h.contact_id
    ON CONFLICT (contact_id, topic) DO NOTHING
),
ended AS (
    DELETE FROM loose_mail USING held WHERE loose_mail.loose_mail_id = held.loose_mail_id AND held.enters IS NULL
    RETURNING held.occurred_at, loose_mail.loose_mail_id, loose_mail.frozen_campaign_id, loose_mail.message
),
said AS (
    INSERT INTO loose_mail_message (day, loose_mail_id, frozen_campaign_id, message)
    SELECT CAST(e.occurred_at AT TIME ZONE 'UTC' AS date), e.loose_mail_id, e.frozen_campaign_id, e.message
    FROM ended AS e
    WHERE e.message IS NOT NULL
),
forgotten AS (
    DELETE FROM queue_history USING held
    WHERE queue_history.mail_key = held.history_key AND held.enters IS NULL AND held.outcome IN ('stopped', 'expired')
),
remembered AS (
    INSERT INTO queue_history (queued_on, mail_key, queued_at)
    SELECT CAST(h.occurred_at AT TIME ZONE 'UTC' AS date), h.history_key, h.occurred_at
    FROM held AS h
    WHERE h.is_late
    ON CONFLICT (mail_key, queued_on) DO NOTHING
),
logged AS (
    INSERT INTO delivery_log (
        day, loose_mail_id, installation_id, kind, campaign_id, contact_id, address, release_id, message_no, created_at,
        ended_at, attempts, outcome, reply_code, enhanced_code, reply_text, relay, code, description, size
    )
    SELECT
        CAST(h.occurred_at AT TIME ZONE 'UTC' AS date), h.loose_mail_id, h.installation_id, h.kind, h.campaign_id,
        h.contact_id, h.address, h.release_id, h.message_no, h.created_at, h.occurred_at, h.attempts, h.outcome,
        h.reply_code, h.enhanced_code, h.reply_text, h.relay, h.code, h.description, h.size
    FROM held AS h
    WHERE h.enters IS NULL
),
kept AS (
    UPDATE loose_mail
    SET state = CASE WHEN h.enters = 'SCHEDULED' THEN coalesce(h.asked_state, h.enters) ELSE h.enters END,
        asked_state = NULL, worker = NULL, reserved_until = NULL, attempts = h.attempts, run_outs = 0,
        due_at = coalesce(h.next_at, loose_mail.due_at),
        result_no = CASE WHEN h.is_counted THEN loose_mail.result_no + 1 ELSE loose_mail.result_no END,
        last_outcome = CASE WHEN h.is_counted THEN h.outcome ELSE loose_mail.last_outcome END,
        reply_code = h.reply_code, enhanced_code = h.enhanced_code, reply_text = h.reply_text, relay = h.relay,
        code = h.code, description = h.description,
        remembered_at = CASE WHEN h.is_late THEN h.occurred_at ELSE loose_mail.remembered_at END
    FROM held AS h
    WHERE loose_mail.loose_mail_id = h.loose_mail_id AND h.enters IS NOT NULL
),
to_report AS (
    UPDATE release SET reported_at = NULL
    WHERE release.reported_at IS NOT NULL
        AND release.release_id IN (SELECT h.release_id FROM held AS h WHERE h.is_counted)
        AND NOT EXISTS (
            SELECT FROM held AS h WHERE h.release_id = release.release_id AND h.enters = 'SCHEDULED'
        )
        AND NOT EXISTS (
            SELECT FROM loose_mail AS w
            WHERE w.kind = 'retry' AND w.release_id = release.release_id
                AND w.state IN ('SCHEDULED', 'QUEUED', 'SENDING')
                AND w.loose_mail_id NOT IN (SELECT h.loose_mail_id FROM held AS h)
        )
)
SELECT loose_mail_id FROM held;
