-- Statements of dispatch/loose_mails.py and resting.py: what is sent one by one, and who has it in hand.
--
-- States are literals where a partial index of loose_mail is meant to be used. Order of locks, for whoever needs more than
-- one: mail jobs by number, releases by number, loose mails by number.

-- name: end_run_out_reservations
-- Whose worker has been silent until its reservation ran out, any worker may take again. No attempt is counted: nobody
-- knows of one. But one whose reservations go on running out may be what ends its workers: it is a dead letter then.
WITH run_out AS (
    SELECT
        l.loose_mail_id, l.release_id, l.asked_state,
        l.asked_state IS NULL AND l.run_outs + 1 >= CAST(:most_run_outs AS integer) AS is_dead
    FROM loose_mail AS l
    WHERE l.state = 'SENDING' AND l.reserved_until <= CAST(:now AS timestamptz)
        AND l.installation_id = CAST(:installation_id AS integer)
    ORDER BY l.reserved_until
    LIMIT 1000
    FOR NO KEY UPDATE SKIP LOCKED
),

-- It waits no more. A release that somebody else has locked is being looked at just now, and is passed over: whoever holds
-- releases and waits for loose mails must not be waited for from here.
to_report AS (
    UPDATE release SET reported_at = NULL
    WHERE release.release_id IN (
        SELECT r.release_id FROM release AS r
        WHERE r.release_id IN (SELECT o.release_id FROM run_out AS o WHERE o.is_dead) AND r.reported_at IS NOT NULL
        FOR NO KEY UPDATE SKIP LOCKED
    )
)

UPDATE loose_mail
SET state = CASE
        WHEN o.is_dead THEN CAST('FAILED' AS loose_mail_state) ELSE coalesce(o.asked_state, 'QUEUED')
    END,
    asked_state = NULL, worker = NULL, reserved_until = NULL, run_outs = loose_mail.run_outs + 1,
    code = CASE WHEN o.is_dead THEN CAST(:code AS text) ELSE loose_mail.code END,
    description = CASE WHEN o.is_dead THEN CAST(:description AS text) ELSE loose_mail.description END
FROM run_out AS o
WHERE loose_mail.loose_mail_id = o.loose_mail_id;

-- name: queue_due_loose_mails
-- What has come to its time is QUEUED, unless what it belongs to is held: PAUSED with a paused campaign or a mail job that
-- the operator stopped, STOPPED with a deleted campaign. Each kind by itself, so that a million retries keep no single
-- mail waiting. While a campaign is being paused or resumed, or a stopped mail job restarted, its mails are left for the
-- next look: what would be PAUSED just when those that are PAUSED are let go on would never go on.
WITH due AS (
    SELECT due.loose_mail_id, due.campaign_id, due.release_id, due.message_no
    FROM unnest(enum_range(CAST(NULL AS loose_mail_kind))) AS known (kind)
    CROSS JOIN LATERAL (
        SELECT l.loose_mail_id, l.campaign_id, l.release_id, l.message_no FROM loose_mail AS l
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
),

of_stopped AS (
    SELECT d.loose_mail_id, j.mail_job_id
    FROM due AS d
    INNER JOIN mail_job AS j ON j.release_id = d.release_id AND d.message_no BETWEEN j.first_message AND j.last_message
    WHERE j.state IN ('STOPPED_R', 'STOPPED_Q', 'STOPPING')
),

stopped_at_rest AS (
    SELECT j.mail_job_id FROM mail_job AS j
    WHERE j.mail_job_id IN (SELECT s.mail_job_id FROM of_stopped AS s)
        AND j.state IN ('STOPPED_R', 'STOPPED_Q', 'STOPPING')
    FOR SHARE SKIP LOCKED
)

UPDATE loose_mail
SET state = CASE
        WHEN campaign.state = 'deleted' THEN CAST('STOPPED' AS loose_mail_state)
        WHEN campaign.state = 'paused' THEN 'PAUSED'
        WHEN loose_mail.loose_mail_id = ANY(ARRAY(SELECT s.loose_mail_id FROM of_stopped AS s)) THEN 'PAUSED'
        ELSE 'QUEUED'
    END,
    description = CASE WHEN campaign.state = 'deleted' THEN 'its campaign is deleted' END
FROM campaign_at_rest AS campaign
-- An array: joined with a few thousand, the planner would read all that wait.
WHERE loose_mail.loose_mail_id = ANY(ARRAY(
        SELECT d.loose_mail_id FROM due AS d
        EXCEPT
        SELECT s.loose_mail_id FROM of_stopped AS s
        WHERE s.mail_job_id NOT IN (SELECT r.mail_job_id FROM stopped_at_rest AS r)
    ))
    AND campaign.campaign_id = loose_mail.campaign_id;

-- name: reserve_loose_mails
-- Reserve the next loose mails of an installation for a worker, with all that is needed to send them: as many as are asked
-- for, of so many octets as they are stored, or a single larger one. What another worker has in hand is passed over. One
-- whose reservation ran out goes alone, and waits until its worker has nothing else in hand: the one that ends its worker
-- must take no others along. What is chosen is locked and QUEUED: to ask for that once more would let a planner whose
-- statistics know of none that is QUEUED read all of them, for each.
WITH found AS (
    SELECT loose_mail_id, kind, priority, due_at, run_outs, message, released_on, release_id, message_no
    FROM loose_mail
    WHERE state = 'QUEUED' AND installation_id = CAST(:installation_id AS integer)
        AND kind = ANY(CAST(:kinds AS loose_mail_kind[]))
    ORDER BY kind, priority DESC, due_at, loose_mail_id
    LIMIT CAST(:most AS integer)
    FOR NO KEY UPDATE SKIP LOCKED
),

measured AS (
    SELECT f.loose_mail_id, f.run_outs,
        row_number() OVER in_order AS place,
        sum(octet_length(coalesce(f.message, stored.message, ''))) OVER in_order AS octets,
        sum(f.run_outs) OVER in_order AS run_outs_so_far
    FROM found AS f
    LEFT JOIN assembled_message AS stored
        ON stored.released_on = f.released_on AND stored.release_id = f.release_id AND stored.message_no = f.message_no
    WINDOW in_order AS (ORDER BY f.kind, f.priority DESC, f.due_at, f.loose_mail_id)
),

chosen AS (
    SELECT m.loose_mail_id FROM measured AS m
    WHERE (m.place = 1 AND (m.run_outs = 0 OR CAST(:is_free AS boolean)))
        OR (m.run_outs_so_far = 0 AND m.octets <= CAST(:most_octets AS bigint))
),

reserved AS (
    UPDATE loose_mail
    SET state = 'SENDING', worker = :worker, fence = loose_mail.fence + 1,
        reserved_until = CAST(:now AS timestamptz) + make_interval(secs => CAST(:for_s AS double precision))
    FROM chosen
    WHERE loose_mail.loose_mail_id = chosen.loose_mail_id
    RETURNING loose_mail.*
)

SELECT r.loose_mail_id, r.kind, r.attempts, r.run_outs, r.fence, r.expires_at, r.campaign_id, r.contact_id, r.address, r.released_on,
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
-- What is FAILED or STOPPED is due at once, unless it was never attempted and its moment is to come; its attempts begin anew.
-- What is of a deleted campaign would be STOPPED again. A single mail that is due is QUEUED; a retry, which its mail job may
-- hold, and what is of a campaign that is paused or just being changed, waits for the next look of a worker.
WITH let_go AS (
    SELECT c.campaign_id FROM campaign AS c
    WHERE c.installation_id = CAST(:installation_id AS integer) AND c.state NOT IN ('deleted', 'paused')
        AND (CAST(:campaign_id AS integer) IS NULL OR c.campaign_id = CAST(:campaign_id AS integer))
    FOR SHARE SKIP LOCKED
)

UPDATE loose_mail
SET state = CASE
        WHEN loose_mail.kind = 'single' AND meant.due_at <= CAST(:now AS timestamptz)
            AND loose_mail.campaign_id = ANY(ARRAY(SELECT g.campaign_id FROM let_go AS g))
            THEN CAST('QUEUED' AS loose_mail_state)
        ELSE 'SCHEDULED'
    END,
    due_at = meant.due_at, attempts = 0, run_outs = 0, code = NULL, description = NULL
FROM (
    SELECT
        l.loose_mail_id,
        CASE
            WHEN l.attempts = 0 THEN greatest(l.due_at, CAST(:now AS timestamptz)) ELSE CAST(:now AS timestamptz)
        END AS due_at
    FROM loose_mail AS l
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
