-- Statements of feedback/uncertain.py: the operator's word on uncertain messages (spec 5.7).

-- name: list_uncertain
-- The uncertain messages of a range with the mail job that covers each now; addresses are for the operator's own eyes. That
-- is the one that recorded it, or where that was recovered the last of its chain: looked for among all mail jobs of the release
-- only then.
SELECT
    u.message_no, m.recipient_no, m.address, u.occurred_at, u.result_no, u.relay, u.reply_text,
    j.mail_job_id, j.state AS mail_job_state, u.loose_mail_state
FROM uncertain_message AS u
INNER JOIN assembled_message AS m
    ON m.released_on = u.released_on AND m.release_id = u.release_id AND m.message_no = u.message_no
INNER JOIN mail_job AS own ON own.mail_job_id = u.mail_job_id
CROSS JOIN LATERAL (
    SELECT own.mail_job_id, own.state
    WHERE own.kind IN ('small', 'child') AND own.state <> 'RECOVERED'
    UNION ALL
    SELECT other.mail_job_id, other.state FROM mail_job AS other
    WHERE (own.kind NOT IN ('small', 'child') OR own.state = 'RECOVERED')
        AND other.release_id = u.release_id AND other.kind IN ('small', 'child') AND other.state <> 'RECOVERED'
        AND u.message_no BETWEEN other.first_message AND other.last_message
) AS j
WHERE u.released_on = CAST(:released_on AS date) AND u.release_id = CAST(:release_id AS bigint)
    AND u.message_no BETWEEN CAST(:first_message AS integer) AND CAST(:last_message AS integer)
ORDER BY u.message_no
LIMIT CAST(:most AS integer);

-- name: lock_mail_jobs_at_rest
-- The mail jobs of a range that nobody works on and nobody will take unasked: none of them begins while these are locked.
SELECT mail_job_id
FROM mail_job
WHERE release_id = CAST(:release_id AS bigint) AND kind IN ('small', 'child')
    AND state IN ('FINISHED', 'FAILED', 'STOPPED_R')
    AND first_message <= CAST(:last_message AS integer) AND last_message >= CAST(:first_message AS integer)
ORDER BY mail_job_id
FOR NO KEY UPDATE;

-- name: settle_uncertain
-- The operator's word on uncertain messages of these mail jobs, which the caller has locked: a result that supersedes
-- uncertain, the mail jobs' figures with it, and the release is reported on once more.
WITH settled AS (
    INSERT INTO result (
        released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, reply_text, relay, result_no,
        supersedes
    )
    SELECT
        u.released_on, u.release_id, u.message_no, u.mail_job_id, u.contact_id, CAST(:now AS timestamptz),
        CAST(:outcome AS outcome), 'settled by the operator', '', u.result_no + 1, 'uncertain'
    FROM uncertain_message AS u
    INNER JOIN assembled_message AS m
        ON m.released_on = u.released_on AND m.release_id = u.release_id AND m.message_no = u.message_no
    INNER JOIN mail_job AS j
        ON j.mail_job_id = ANY(CAST(:mail_job_ids AS bigint[])) AND u.message_no BETWEEN j.first_message AND j.last_message
    WHERE u.released_on = CAST(:released_on AS date) AND u.release_id = CAST(:release_id AS bigint)
        AND u.message_no BETWEEN CAST(:first_message AS integer) AND CAST(:last_message AS integer)
        AND (CAST(:recipient_nos AS integer[]) IS NULL OR m.recipient_no = ANY(CAST(:recipient_nos AS integer[])))
        AND u.loose_mail_state IS NULL
    RETURNING mail_job_id
),
by_mail_job AS (
    UPDATE mail_job
    SET uncertain = mail_job.uncertain - s.messages,
        accepted = mail_job.accepted + CASE WHEN CAST(:outcome AS outcome) = 'accepted' THEN s.messages ELSE 0 END,
        rejected = mail_job.rejected + CASE WHEN CAST(:outcome AS outcome) = 'rejected' THEN s.messages ELSE 0 END
    FROM (SELECT mail_job_id, CAST(count(*) AS integer) AS messages FROM settled GROUP BY mail_job_id) AS s
    WHERE mail_job.mail_job_id = s.mail_job_id
),
to_report AS (
    UPDATE release SET reported_at = NULL
    WHERE release_id = CAST(:release_id AS bigint) AND EXISTS (SELECT FROM settled)
)
SELECT count(*) FROM settled;

-- name: retry_uncertain
-- The operator lets uncertain messages of these mail jobs, which the caller has locked, be sent once more: as loose mails,
-- whose attempts begin now.
INSERT INTO loose_mail (
    installation_id, kind, state, priority, created_at, due_at, expires_at, campaign_id, contact_id, address, topic,
    released_on, release_id, message_no, mail_job_id, result_no, last_outcome, reply_text, relay
)
SELECT
    top.installation_id, 'retry', 'SCHEDULED', top.priority, CAST(:now AS timestamptz), CAST(:now AS timestamptz),
    release.expires_at, release.campaign_id, u.contact_id, m.address, release.topic, u.released_on, u.release_id,
    u.message_no, u.mail_job_id, u.result_no, 'uncertain', u.reply_text, u.relay
FROM uncertain_message AS u
INNER JOIN assembled_message AS m
    ON m.released_on = u.released_on AND m.release_id = u.release_id AND m.message_no = u.message_no
INNER JOIN release ON release.release_id = u.release_id
INNER JOIN mail_job AS top ON top.mail_job_id = u.release_id
INNER JOIN mail_job AS j
    ON j.mail_job_id = ANY(CAST(:mail_job_ids AS bigint[])) AND u.message_no BETWEEN j.first_message AND j.last_message
WHERE u.released_on = CAST(:released_on AS date) AND u.release_id = CAST(:release_id AS bigint)
    AND u.message_no BETWEEN CAST(:first_message AS integer) AND CAST(:last_message AS integer)
    AND (CAST(:recipient_nos AS integer[]) IS NULL OR m.recipient_no = ANY(CAST(:recipient_nos AS integer[])))
    AND u.loose_mail_state IS NULL
ON CONFLICT (release_id, message_no) WHERE kind = 'retry' DO NOTHING
RETURNING loose_mail_id;
