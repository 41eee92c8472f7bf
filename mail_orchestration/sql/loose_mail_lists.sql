-- Statements of dispatch/loose_mail_lists.py: what is shown of loose mails, and of what became of them.
--
-- States are literals where a partial index of loose_mail is meant to be used.

-- name: list_loose_mails
-- Loose mails of an installation, by state, kind, campaign and mail job: what workers have, what goes next, what waits for
-- its time, and what rests. Of each state as many as are asked for are found by its index, however many there are: the
-- same filter stands with each state, since each has a partial index of its own. Addresses are for the operator's own eyes.
WITH known AS (
    SELECT k.kind FROM unnest(enum_range(CAST(NULL AS loose_mail_kind))) AS k (kind)
    WHERE CAST(:kind AS loose_mail_kind) IS NULL OR k.kind = CAST(:kind AS loose_mail_kind)
),

of_mail_job AS (
    SELECT j.release_id FROM mail_job AS j WHERE j.mail_job_id = CAST(:mail_job_id AS bigint)
),

listed AS (
    SELECT mail.loose_mail_id, 1 AS place
    FROM known
    CROSS JOIN LATERAL (
        SELECT l.loose_mail_id FROM loose_mail AS l
        WHERE l.state = 'SENDING' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
            AND (CAST(:states AS loose_mail_state[]) IS NULL OR 'SENDING' = ANY(CAST(:states AS loose_mail_state[])))
            AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
            AND (
                CAST(:mail_job_id AS bigint) IS NULL
                OR (
                    l.kind = 'retry' AND l.release_id = (SELECT of_mail_job.release_id FROM of_mail_job)
                    AND CAST(:mail_job_id AS bigint) IN (l.release_id, l.mail_job_id)
                )
            )
        ORDER BY l.reserved_until
        LIMIT CAST(:most AS integer)
    ) AS mail
    UNION ALL
    SELECT mail.loose_mail_id, 2 AS place
    FROM known
    CROSS JOIN LATERAL (
        SELECT l.loose_mail_id FROM loose_mail AS l
        WHERE l.state = 'QUEUED' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
            AND (CAST(:states AS loose_mail_state[]) IS NULL OR 'QUEUED' = ANY(CAST(:states AS loose_mail_state[])))
            AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
            AND (
                CAST(:mail_job_id AS bigint) IS NULL
                OR (
                    l.kind = 'retry' AND l.release_id = (SELECT of_mail_job.release_id FROM of_mail_job)
                    AND CAST(:mail_job_id AS bigint) IN (l.release_id, l.mail_job_id)
                )
            )
        ORDER BY l.priority DESC, l.due_at, l.loose_mail_id
        LIMIT CAST(:most AS integer)
    ) AS mail
    UNION ALL
    SELECT mail.loose_mail_id, 3 AS place
    FROM known
    CROSS JOIN LATERAL (
        SELECT l.loose_mail_id FROM loose_mail AS l
        WHERE l.state = 'SCHEDULED' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
            AND (CAST(:states AS loose_mail_state[]) IS NULL OR 'SCHEDULED' = ANY(CAST(:states AS loose_mail_state[])))
            AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
            AND (
                CAST(:mail_job_id AS bigint) IS NULL
                OR (
                    l.kind = 'retry' AND l.release_id = (SELECT of_mail_job.release_id FROM of_mail_job)
                    AND CAST(:mail_job_id AS bigint) IN (l.release_id, l.mail_job_id)
                )
            )
        ORDER BY l.due_at
        LIMIT CAST(:most AS integer)
    ) AS mail
    UNION ALL
    SELECT mail.loose_mail_id, 4 AS place
    FROM known
    CROSS JOIN unnest(CAST(ARRAY['PAUSED', 'FAILED', 'STOPPED'] AS loose_mail_state[])) AS rest (state)
    CROSS JOIN LATERAL (
        SELECT l.loose_mail_id FROM loose_mail AS l
        WHERE l.state IN ('FAILED', 'PAUSED', 'STOPPED') AND l.state = rest.state
            AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
            AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
            AND (
                CAST(:mail_job_id AS bigint) IS NULL
                OR (
                    l.kind = 'retry' AND l.release_id = (SELECT of_mail_job.release_id FROM of_mail_job)
                    AND CAST(:mail_job_id AS bigint) IN (l.release_id, l.mail_job_id)
                )
            )
        ORDER BY l.priority DESC, l.due_at, l.loose_mail_id
        LIMIT CAST(:most AS integer)
    ) AS mail
    WHERE CAST(:states AS loose_mail_state[]) IS NULL OR rest.state = ANY(CAST(:states AS loose_mail_state[]))
)

SELECT l.loose_mail_id, l.kind, l.state, l.priority, c.name AS campaign, l.address, l.release_id, l.message_no,
    l.created_at, l.due_at, l.expires_at, l.attempts, l.worker, l.reserved_until, l.last_outcome, l.reply_code,
    l.enhanced_code, l.reply_text, l.relay, l.code, l.description
FROM listed
INNER JOIN loose_mail AS l ON l.loose_mail_id = listed.loose_mail_id
INNER JOIN campaign AS c ON c.campaign_id = l.campaign_id
ORDER BY listed.place, l.kind, CASE WHEN listed.place = 3 THEN 0 ELSE l.priority END DESC, l.due_at, l.loose_mail_id
LIMIT CAST(:most AS integer);

-- name: count_loose_mails
-- How many loose mails of an installation stand where, up to so many of each, and when the first of those that wait is
-- due. To count a million would read a million.
WITH known AS (
    SELECT k.kind FROM unnest(enum_range(CAST(NULL AS loose_mail_kind))) AS k (kind)
)

SELECT known.kind, 'SENDING' AS state, counted.mails, NULL AS first_due_at
FROM known
CROSS JOIN LATERAL (
    SELECT count(*) AS mails FROM loose_mail AS l
    WHERE l.state = 'SENDING' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
) AS counted
WHERE counted.mails > 0
UNION ALL
SELECT known.kind, 'QUEUED', counted.mails, counted.first_due_at
FROM known
CROSS JOIN LATERAL (
    SELECT count(*) AS mails, min(mail.due_at) AS first_due_at
    FROM (
        SELECT l.due_at FROM loose_mail AS l
        WHERE l.state = 'QUEUED' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
        ORDER BY l.priority DESC, l.due_at
        LIMIT CAST(:most AS integer)
    ) AS mail
) AS counted
WHERE counted.mails > 0
UNION ALL
SELECT known.kind, 'SCHEDULED', counted.mails, counted.first_due_at
FROM known
CROSS JOIN LATERAL (
    SELECT count(*) AS mails, min(mail.due_at) AS first_due_at
    FROM (
        SELECT l.due_at FROM loose_mail AS l
        WHERE l.state = 'SCHEDULED' AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
        ORDER BY l.due_at
        LIMIT CAST(:most AS integer)
    ) AS mail
) AS counted
WHERE counted.mails > 0
UNION ALL
SELECT known.kind, CAST(rest.state AS text), counted.mails, NULL
FROM known
CROSS JOIN unnest(CAST(ARRAY['PAUSED', 'FAILED', 'STOPPED'] AS loose_mail_state[])) AS rest (state)
CROSS JOIN LATERAL (
    SELECT count(*) AS mails
    FROM (
        SELECT FROM loose_mail AS l
        WHERE l.state IN ('FAILED', 'PAUSED', 'STOPPED') AND l.state = rest.state
            AND l.installation_id = CAST(:installation_id AS integer) AND l.kind = known.kind
        ORDER BY l.priority DESC
        LIMIT CAST(:most AS integer)
    ) AS mail
) AS counted
WHERE counted.mails > 0;

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
