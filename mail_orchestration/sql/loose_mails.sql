-- Statements of dispatch/loose_mails.py, loose_mail_lists.py and resting.py: what is sent one by one, and who has it in hand.
--
-- States are literals where a partial index of loose_mail is meant to be used. Order of locks, for whoever needs more than
-- one: mail jobs by number, releases by number, loose mails by number.

-- name: end_run_out_reservations
-- Whose worker has been silent until its reservation ran out, any worker may take again. No attempt is counted: nobody
-- knows of one.
UPDATE loose_mail
SET state = coalesce(asked_state, CAST('QUEUED' AS loose_mail_state)), asked_state = NULL, worker = NULL,
    reserved_until = NULL
FROM (
    SELECT loose_mail_id FROM loose_mail
    WHERE state = 'SENDING' AND reserved_until <= CAST(:now AS timestamptz)
        AND installation_id = CAST(:installation_id AS integer)
    ORDER BY reserved_until
    LIMIT 1000
    FOR NO KEY UPDATE SKIP LOCKED
) AS run_out
WHERE loose_mail.loose_mail_id = run_out.loose_mail_id;

-- name: queue_due_loose_mails
-- What has come to its time is QUEUED, unless what it belongs to is held: PAUSED with a paused campaign or a mail job that
-- the operator stopped, STOPPED with a deleted campaign. Each kind by itself, so that a million retries keep no single
-- mail waiting. While a campaign is being paused or resumed its mails are left for the next look: what would be PAUSED
-- just when those that are PAUSED are let go on would never go on.
WITH due AS (
    SELECT due.loose_mail_id, due.campaign_id
    FROM unnest(enum_range(CAST(NULL AS loose_mail_kind))) AS known (kind)
    CROSS JOIN LATERAL (
        SELECT l.loose_mail_id, l.campaign_id FROM loose_mail AS l
        WHERE l.state = 'SCHEDULED' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
            AND l.due_at <= CAST(:now AS timestamptz)
        ORDER BY l.due_at
        LIMIT 1000
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS due
),

campaign_at_rest AS (
    SELECT c.campaign_id, c.state FROM campaign AS c
    WHERE c.campaign_id IN (SELECT d.campaign_id FROM due AS d)
    FOR SHARE SKIP LOCKED
)

UPDATE loose_mail
SET state = CASE
        WHEN campaign.state = 'deleted' THEN CAST('STOPPED' AS loose_mail_state)
        WHEN campaign.state = 'paused' THEN 'PAUSED'
        WHEN EXISTS (
            SELECT FROM mail_job AS j
            WHERE j.release_id = loose_mail.release_id AND j.state IN ('STOPPED_R', 'STOPPED_Q', 'STOPPING')
                AND loose_mail.message_no BETWEEN j.first_message AND j.last_message
        ) THEN 'PAUSED'
        ELSE 'QUEUED'
    END,
    description = CASE WHEN campaign.state = 'deleted' THEN 'its campaign is deleted' END
FROM campaign_at_rest AS campaign
-- An array: joined with a few thousand, the planner would read all that wait.
WHERE loose_mail.loose_mail_id = ANY(ARRAY(SELECT d.loose_mail_id FROM due AS d))
    AND campaign.campaign_id = loose_mail.campaign_id;

-- name: reserve_loose_mails
-- Reserve the next loose mails of an installation for a worker, with all that is needed to send them. What another worker
-- has in hand is passed over. What is chosen is locked and QUEUED: to ask for that once more would let a planner whose
-- statistics know of none that is QUEUED read all of them, for each.
WITH chosen AS (
    SELECT loose_mail_id FROM loose_mail
    WHERE state = 'QUEUED' AND installation_id = CAST(:installation_id AS integer)
        AND kind = ANY(CAST(:kinds AS loose_mail_kind[]))
    ORDER BY kind, priority DESC, due_at, loose_mail_id
    LIMIT CAST(:most AS integer)
    FOR NO KEY UPDATE SKIP LOCKED
),

reserved AS (
    UPDATE loose_mail
    SET state = 'SENDING', worker = :worker, fence = loose_mail.fence + 1,
        reserved_until = CAST(:now AS timestamptz) + make_interval(secs => CAST(:for_s AS double precision))
    FROM chosen
    WHERE loose_mail.loose_mail_id = chosen.loose_mail_id
    RETURNING loose_mail.*
)

SELECT r.loose_mail_id, r.kind, r.attempts, r.fence, r.expires_at, r.campaign_id, r.contact_id, r.address, r.released_on,
    r.release_id, r.message_no, r.mail_job_id, r.result_no, r.last_outcome, r.message, r.size, r.frozen_campaign_id,
    r.attributes,
    stored.recipient_no, stored.size AS stored_size, stored.message AS stored, suppressed.reason AS suppressed_because
FROM reserved AS r
LEFT JOIN assembled_message AS stored
    ON stored.released_on = r.released_on AND stored.release_id = r.release_id AND stored.message_no = r.message_no
LEFT JOIN LATERAL (
    SELECT suppression.reason FROM suppression
    WHERE suppression.contact_id = r.contact_id AND suppression.topic IN ('', r.topic)
        AND NOT (r.is_transactional AND suppression.reason IN ('opted_out', 'opted_out_of_topic'))
    LIMIT 1
) AS suppressed ON TRUE
ORDER BY r.kind, r.priority DESC, r.due_at, r.loose_mail_id;

-- name: renew_reservations
-- A worker that still has these in hand keeps them for longer. Returns those that are still its own.
UPDATE loose_mail
SET reserved_until = CAST(:now AS timestamptz) + make_interval(secs => CAST(:for_s AS double precision))
FROM unnest(CAST(:loose_mail_ids AS bigint[]), CAST(:fences AS bigint[])) AS held (loose_mail_id, fence)
WHERE loose_mail.loose_mail_id = held.loose_mail_id AND loose_mail.fence = held.fence AND loose_mail.state = 'SENDING'
RETURNING loose_mail.loose_mail_id;

-- name: give_back_loose_mails
-- A worker lets go of what it has reserved and not attempted: it is next again.
UPDATE loose_mail
SET state = coalesce(loose_mail.asked_state, CAST('QUEUED' AS loose_mail_state)), asked_state = NULL, worker = NULL,
    reserved_until = NULL
FROM unnest(CAST(:loose_mail_ids AS bigint[]), CAST(:fences AS bigint[])) AS held (loose_mail_id, fence)
WHERE loose_mail.loose_mail_id = held.loose_mail_id AND loose_mail.fence = held.fence AND loose_mail.state = 'SENDING'
RETURNING loose_mail.loose_mail_id;

-- name: has_due_loose_mails
-- Whether a worker would find something of these kinds: due, or reserved by somebody whose time is over. One row of each
-- kind is looked at and no more, whatever waits: without ORDER BY and LIMIT the planner reads all that is due.
SELECT
    EXISTS (
        SELECT FROM unnest(CAST(:kinds AS loose_mail_kind[])) AS known (kind)
        CROSS JOIN LATERAL (
            SELECT FROM loose_mail AS l
            WHERE l.state = 'QUEUED' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
            ORDER BY l.priority DESC
            LIMIT 1
        ) AS queued
    )
    OR EXISTS (
        SELECT FROM unnest(CAST(:kinds AS loose_mail_kind[])) AS known (kind)
        CROSS JOIN LATERAL (
            SELECT FROM loose_mail AS l
            WHERE l.state = 'SCHEDULED' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
                AND l.due_at <= CAST(:now AS timestamptz)
            ORDER BY l.due_at
            LIMIT 1
        ) AS due
    )
    OR EXISTS (
        SELECT FROM loose_mail
        WHERE state = 'SENDING' AND reserved_until <= CAST(:now AS timestamptz)
            AND installation_id = CAST(:installation_id AS integer) AND kind = ANY(CAST(:kinds AS loose_mail_kind[]))
    );


-- What rests, and goes on ----------------------------------------------------------------------------------------

-- name: rest_loose_mails
-- Loose mails of a campaign, or retries of a mail job's messages, are PAUSED or STOPPED: at once what waits, after the attempt that is
-- under way what is SENDING.
UPDATE loose_mail
SET state = CASE WHEN loose_mail.state = 'SENDING' THEN loose_mail.state ELSE CAST(:enters AS loose_mail_state) END,
    asked_state = CASE WHEN loose_mail.state = 'SENDING' THEN CAST(:enters AS loose_mail_state) END,
    description = CASE WHEN loose_mail.state = 'SENDING' THEN loose_mail.description ELSE CAST(:description AS text) END
FROM (
    SELECT l.loose_mail_id FROM loose_mail AS l
    WHERE l.installation_id = CAST(:installation_id AS integer)
        AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
        AND (
            CAST(:mail_job_id AS bigint) IS NULL
            OR EXISTS (
                SELECT FROM mail_job AS j
                WHERE j.mail_job_id = CAST(:mail_job_id AS bigint) AND j.release_id = l.release_id
                    AND l.message_no BETWEEN j.first_message AND j.last_message
            )
        )
        AND (
            l.state IN ('SCHEDULED', 'QUEUED', 'SENDING')
            OR (l.state = 'PAUSED' AND CAST(:enters AS loose_mail_state) = 'STOPPED')
        )
    ORDER BY l.loose_mail_id
    FOR NO KEY UPDATE
) AS meant
WHERE loose_mail.loose_mail_id = meant.loose_mail_id
RETURNING loose_mail.loose_mail_id;

-- name: wake_loose_mails
-- Loose mails of a campaign, or retries of a mail job's messages, that were PAUSED or were to be wait for their time again.
UPDATE loose_mail
SET state = CASE WHEN loose_mail.state = 'PAUSED' THEN CAST('SCHEDULED' AS loose_mail_state) ELSE loose_mail.state END,
    asked_state = NULL
FROM (
    SELECT l.loose_mail_id FROM loose_mail AS l
    WHERE l.installation_id = CAST(:installation_id AS integer)
        AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
        AND (
            CAST(:mail_job_id AS bigint) IS NULL
            OR EXISTS (
                SELECT FROM mail_job AS j
                WHERE j.mail_job_id = CAST(:mail_job_id AS bigint) AND j.release_id = l.release_id
                    AND l.message_no BETWEEN j.first_message AND j.last_message
            )
        )
        AND (l.state = 'PAUSED' OR (l.state = 'SENDING' AND l.asked_state = 'PAUSED'))
    ORDER BY l.loose_mail_id
    FOR NO KEY UPDATE
) AS meant
WHERE loose_mail.loose_mail_id = meant.loose_mail_id
RETURNING loose_mail.loose_mail_id;

-- name: resubmit_loose_mails
-- What is FAILED or STOPPED is due at once, and its attempts begin anew. What is of a deleted campaign would be STOPPED again.
UPDATE loose_mail
SET state = 'SCHEDULED', due_at = CAST(:now AS timestamptz), attempts = 0, code = NULL, description = NULL
FROM (
    SELECT l.loose_mail_id FROM loose_mail AS l
    WHERE l.installation_id = CAST(:installation_id AS integer) AND l.state IN ('FAILED', 'STOPPED')
        AND (CAST(:loose_mail_ids AS bigint[]) IS NULL OR l.loose_mail_id = ANY(CAST(:loose_mail_ids AS bigint[])))
        AND (CAST(:kind AS loose_mail_kind) IS NULL OR l.kind = CAST(:kind AS loose_mail_kind))
        AND (CAST(:code AS text) IS NULL OR l.code = CAST(:code AS text))
        AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
        AND NOT EXISTS (SELECT FROM campaign AS d WHERE d.campaign_id = l.campaign_id AND d.state = 'deleted')
    ORDER BY l.loose_mail_id
    FOR NO KEY UPDATE
) AS meant
WHERE loose_mail.loose_mail_id = meant.loose_mail_id
RETURNING loose_mail.loose_mail_id;

-- name: delete_loose_mails
-- What is FAILED or STOPPED moves to the delivery log with the outcome of its last attempt (stopped where there was none),
-- and who deleted it. The queue history forgets it: whoever submits it anew means it.
WITH meant AS (
    SELECT l.* FROM loose_mail AS l
    WHERE l.installation_id = CAST(:installation_id AS integer) AND l.state IN ('FAILED', 'STOPPED')
        AND (CAST(:loose_mail_ids AS bigint[]) IS NULL OR l.loose_mail_id = ANY(CAST(:loose_mail_ids AS bigint[])))
        AND (CAST(:kind AS loose_mail_kind) IS NULL OR l.kind = CAST(:kind AS loose_mail_kind))
        AND (CAST(:code AS text) IS NULL OR l.code = CAST(:code AS text))
        AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
    ORDER BY l.loose_mail_id
    FOR UPDATE
),

deleted AS (
    DELETE FROM loose_mail USING meant WHERE loose_mail.loose_mail_id = meant.loose_mail_id
    RETURNING loose_mail.loose_mail_id
),

said AS (
    INSERT INTO loose_mail_message (day, loose_mail_id, frozen_campaign_id, message)
    SELECT CAST(CAST(:now AS timestamptz) AT TIME ZONE 'UTC' AS date), m.loose_mail_id, m.frozen_campaign_id, m.message
    FROM meant AS m INNER JOIN deleted ON deleted.loose_mail_id = m.loose_mail_id
    WHERE m.message IS NOT NULL
),

forgotten AS (
    DELETE FROM queue_history USING meant WHERE queue_history.mail_key = meant.history_key
)

INSERT INTO delivery_log (
    day, loose_mail_id, installation_id, kind, campaign_id, contact_id, address, release_id, message_no, created_at,
    ended_at, attempts, outcome, reply_code, enhanced_code, reply_text, relay, code, description, size, deleted_by
)
SELECT
    CAST(CAST(:now AS timestamptz) AT TIME ZONE 'UTC' AS date), m.loose_mail_id, m.installation_id, m.kind, m.campaign_id,
    m.contact_id, m.address, m.release_id, m.message_no, m.created_at, CAST(:now AS timestamptz), m.attempts,
    coalesce(m.last_outcome, 'stopped'), m.reply_code, m.enhanced_code, m.reply_text, coalesce(m.relay, ''), m.code,
    m.description, m.size, :by
FROM meant AS m INNER JOIN deleted ON deleted.loose_mail_id = m.loose_mail_id
RETURNING loose_mail_id;


-- What is shown --------------------------------------------------------------------------------------------------

-- name: list_loose_mails
-- Loose mails of an installation in the order in which they will go, by state, kind, campaign and mail job; addresses are
-- for the operator's own eyes.
SELECT l.loose_mail_id, l.kind, l.state, l.priority, c.name AS campaign, l.address, l.release_id, l.message_no,
    l.created_at, l.due_at, l.expires_at, l.attempts, l.worker, l.reserved_until, l.last_outcome, l.reply_code,
    l.enhanced_code, l.reply_text, l.relay, l.code, l.description
FROM loose_mail AS l
INNER JOIN campaign AS c ON c.campaign_id = l.campaign_id
WHERE l.installation_id = CAST(:installation_id AS integer)
    AND (CAST(:states AS loose_mail_state[]) IS NULL OR l.state = ANY(CAST(:states AS loose_mail_state[])))
    AND (CAST(:kind AS loose_mail_kind) IS NULL OR l.kind = CAST(:kind AS loose_mail_kind))
    AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
    AND (
        CAST(:mail_job_id AS bigint) IS NULL
        OR CAST(:mail_job_id AS bigint) IN (l.release_id, l.mail_job_id)
    )
ORDER BY l.kind, l.priority DESC, l.due_at, l.loose_mail_id
LIMIT CAST(:most AS integer);

-- name: count_loose_mails
-- How many loose mails of an installation (or of one release of it) stand where, and when the first of those that wait is
-- due.
SELECT kind, state, count(*) AS mails, min(due_at) AS first_due_at
FROM loose_mail
WHERE installation_id = CAST(:installation_id AS integer)
    AND (CAST(:release_id AS bigint) IS NULL OR release_id = CAST(:release_id AS bigint))
GROUP BY kind, state
ORDER BY kind, state;

-- name: list_delivery_log
-- What became of loose mails lately, newest first; addresses are for the operator's own eyes.
SELECT g.loose_mail_id, g.kind, c.name AS campaign, g.address, g.release_id, g.message_no, g.created_at, g.ended_at,
    g.attempts, g.outcome, g.reply_code, g.enhanced_code, g.reply_text, g.relay, g.code, g.description, g.deleted_by
FROM delivery_log AS g
INNER JOIN campaign AS c ON c.campaign_id = g.campaign_id
WHERE g.installation_id = CAST(:installation_id AS integer)
    AND (CAST(:outcomes AS outcome[]) IS NULL OR g.outcome = ANY(CAST(:outcomes AS outcome[])))
    AND (CAST(:kind AS loose_mail_kind) IS NULL OR g.kind = CAST(:kind AS loose_mail_kind))
    AND (CAST(:campaign_id AS integer) IS NULL OR g.campaign_id = CAST(:campaign_id AS integer))
    AND (CAST(:address AS text) IS NULL OR lower(g.address) = lower(CAST(:address AS text)))
ORDER BY g.ended_at DESC, g.loose_mail_id DESC
LIMIT CAST(:most AS integer);
