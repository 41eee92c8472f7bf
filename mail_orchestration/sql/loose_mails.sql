-- Statements of dispatch/loose_mails.py: what is sent one by one, and who has it in hand; what rests is in
-- loose_mails_at_rest.sql.
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
-- for, of so many octets as they are stored (of a retry: its block), or a single larger one. What another worker has in
-- hand is passed over. One
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
        sum(octet_length(coalesce(f.message, stored.block, ''))) OVER in_order AS octets,
        sum(f.run_outs) OVER in_order AS run_outs_so_far
    FROM found AS f
    LEFT JOIN assembled_message AS m
        ON m.released_on = f.released_on AND m.release_id = f.release_id AND m.message_no = f.message_no
    LEFT JOIN message_block AS stored
        ON stored.released_on = m.released_on AND stored.release_id = m.release_id
            AND stored.first_message = m.message_no - m.place_in_block
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
    stored.recipient_no, stored.size AS stored_size, stored.place_in_block,
    stored.message_no - stored.place_in_block AS first_of_block, suppressed.reason AS suppressed_because
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
