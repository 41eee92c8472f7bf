-- Statements of dispatch/resting.py and dispatch/dead_letters.py: loose mails that rest, and go on or are given up. The order
-- of locks is that of loose_mails.sql.

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
-- hold, and what is of a campaign that is paused or just being changed, waits for the next look of a worker. What repeats
-- another mail is left; the queue history takes the others up anew, as queued now.
WITH let_go AS (
    SELECT c.campaign_id FROM campaign AS c
    WHERE c.installation_id = CAST(:installation_id AS integer) AND c.state NOT IN ('deleted', 'paused')
        AND (CAST(:campaign_id AS integer) IS NULL OR c.campaign_id = CAST(:campaign_id AS integer))
    FOR SHARE SKIP LOCKED
),

resubmitted AS (
    UPDATE loose_mail
    SET state = CASE
            WHEN loose_mail.kind = 'single' AND meant.due_at <= CAST(:now AS timestamptz)
                AND loose_mail.campaign_id = ANY(ARRAY(SELECT g.campaign_id FROM let_go AS g))
                THEN CAST('QUEUED' AS loose_mail_state)
            ELSE 'SCHEDULED'
        END,
        due_at = meant.due_at, attempts = 0, run_outs = 0, code = NULL, description = NULL,
        remembered_at = CASE WHEN loose_mail.history_key IS NOT NULL THEN CAST(:now AS timestamptz) END
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
            AND l.loose_mail_id <> ALL(CAST(:repeats AS bigint[]))
        ORDER BY l.loose_mail_id
        FOR NO KEY UPDATE
    ) AS meant
    WHERE loose_mail.loose_mail_id = meant.loose_mail_id
    RETURNING loose_mail.loose_mail_id, loose_mail.history_key
),

remembered AS (
    INSERT INTO queue_history (queued_on, mail_key, queued_at)
    SELECT CAST(CAST(:now AS timestamptz) AT TIME ZONE 'UTC' AS date), r.history_key, CAST(:now AS timestamptz)
    FROM resubmitted AS r
    WHERE r.history_key IS NOT NULL
    ON CONFLICT (mail_key, queued_on) DO UPDATE SET queued_at = excluded.queued_at
)

SELECT loose_mail_id FROM resubmitted;

-- name: delete_loose_mails
-- What is FAILED or STOPPED moves to the delivery log with the outcome of its last attempt (stopped where there was none),
-- and who deleted it. The queue history forgets it, and not what was queued later: whoever submits it anew means it.
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
    DELETE FROM queue_history USING meant
    WHERE queue_history.mail_key = meant.history_key
        AND queue_history.queued_at <= coalesce(meant.remembered_at, meant.created_at)
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
