-- Statements of dispatch/claims.py and recovery.py: a mailcaster takes work; how it ends is in held_claims.sql.
--
-- States of the searches are literals and not binds: only so does the planner see that the partial index
-- mail_job_to_take holds all that they can find. FOR NO KEY UPDATE and not FOR UPDATE: foreign keys that point at the
-- row (a new child's, a shift's) lock it FOR KEY SHARE, and must neither wait for a claim nor make it look taken.
-- The scalar subquery on release and campaign is a look-up for each candidate; as a join it would invite a hash of
-- all releases. A paused campaign holds all of it; a deleted one only what has not begun (spec 3.4).

-- name: claim_small
-- Take the first small mail job that waits and that nobody else is taking.
WITH candidate AS (
    SELECT mail_job.mail_job_id
    FROM mail_job
    WHERE mail_job.state = 'QUEUED'
        AND mail_job.installation_id = CAST(:installation_id AS integer)
        AND (CAST(:only AS bigint) IS NULL OR mail_job.mail_job_id = CAST(:only AS bigint))
        AND (
            SELECT campaign.state NOT IN ('paused', 'deleted')
            FROM release INNER JOIN campaign ON release.campaign_id = campaign.campaign_id
            WHERE release.release_id = mail_job.release_id
        )
    ORDER BY mail_job.priority DESC, mail_job.queued_at ASC, mail_job.mail_job_id ASC
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE mail_job
SET state = 'RUNNING', fence = mail_job.fence + 1, mailcaster = :mailcaster,
    started_at = CAST(:now AS timestamptz), heartbeat_at = CAST(:now AS timestamptz)
FROM candidate, release
WHERE mail_job.mail_job_id = candidate.mail_job_id AND mail_job.state = 'QUEUED'
    AND release.release_id = mail_job.release_id
RETURNING mail_job.mail_job_id, mail_job.installation_id, mail_job.release_id, release.released_on, mail_job.parent_id,
    mail_job.kind, mail_job.first_message, mail_job.last_message, mail_job.fence, mail_job.mailcaster, mail_job.recovers_id;

-- name: find_assigning_parent
-- Lock the first parent with children that has messages left, waits for no canary, and that nobody else is dividing.
SELECT mail_job.mail_job_id, mail_job.first_message, mail_job.last_message, mail_job.next_message,
    mail_job.canary_messages
FROM mail_job
WHERE mail_job.state = 'P_ASSIGNING' AND mail_job.canary_messages IS NULL
    AND mail_job.installation_id = CAST(:installation_id AS integer)
    AND (
        SELECT campaign.state <> 'paused'
        FROM release INNER JOIN campaign ON release.campaign_id = campaign.campaign_id
        WHERE release.release_id = mail_job.release_id
    )
ORDER BY mail_job.priority DESC, mail_job.queued_at ASC, mail_job.mail_job_id ASC
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED;

-- name: find_queued_parent
-- Lock the first parent without children that nobody else is dividing.
SELECT mail_job.mail_job_id, mail_job.first_message, mail_job.last_message, mail_job.next_message,
    mail_job.canary_messages
FROM mail_job
WHERE mail_job.state = 'P_QUEUED'
    AND mail_job.installation_id = CAST(:installation_id AS integer)
    AND (
        SELECT campaign.state NOT IN ('paused', 'deleted')
        FROM release INNER JOIN campaign ON release.campaign_id = campaign.campaign_id
        WHERE release.release_id = mail_job.release_id
    )
ORDER BY mail_job.priority DESC, mail_job.queued_at ASC, mail_job.mail_job_id ASC
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED;

-- name: claim_child
-- Make a child of the parent's next messages, RUNNING from birth; the parent must be locked and as it was found.
WITH parent AS (
    UPDATE mail_job
    SET next_message = CAST(:last_message AS integer) + 1,
        state = CASE
            WHEN last_message > CAST(:last_message AS integer) THEN CAST('P_ASSIGNING' AS mail_job_state) ELSE 'P_ASSIGNED'
        END,
        started_at = coalesce(started_at, CAST(:now AS timestamptz))
    WHERE mail_job_id = CAST(:parent_id AS bigint) AND state IN ('P_QUEUED', 'P_ASSIGNING')
        AND next_message = CAST(:first_message AS integer)
    RETURNING mail_job_id, release_id, installation_id, priority, queued_at
),

child AS (
    INSERT INTO mail_job (
        release_id, installation_id, parent_id, kind, state, priority, created_at, queued_at, started_at,
        first_message, last_message, mailcaster, fence, heartbeat_at
    )
    SELECT release_id, installation_id, mail_job_id, 'child', 'RUNNING', priority, CAST(:now AS timestamptz), queued_at,
        CAST(:now AS timestamptz), CAST(:first_message AS integer), CAST(:last_message AS integer), :mailcaster, 1,
        CAST(:now AS timestamptz)
    FROM parent
    RETURNING *
)

SELECT child.mail_job_id, child.installation_id, child.release_id, release.released_on, child.parent_id, child.kind,
    child.first_message, child.last_message, child.fence, child.mailcaster, child.recovers_id
FROM child INNER JOIN release ON child.release_id = release.release_id;

-- name: find_restarted
-- Lock the first mail job of a kind that the operator restarted, but for those already passed over.
SELECT mail_job.mail_job_id, mail_job.parent_id, mail_job.queued_at, mail_job.heartbeat_at,
    (SELECT release.expires_at FROM release WHERE release.release_id = mail_job.release_id) AS release_expires_at
FROM mail_job
WHERE mail_job.state = 'RECOVERING' AND mail_job.kind = CAST(:kind AS mail_job_kind)
    AND mail_job.installation_id = CAST(:installation_id AS integer)
    AND mail_job.mail_job_id <> ALL(CAST(:passed_over AS bigint[]))
    AND (CAST(:only AS bigint) IS NULL OR mail_job.mail_job_id = CAST(:only AS bigint))
    AND (
        SELECT campaign.state <> 'paused'
        FROM release INNER JOIN campaign ON release.campaign_id = campaign.campaign_id
        WHERE release.release_id = mail_job.release_id
    )
ORDER BY mail_job.priority DESC, mail_job.queued_at ASC, mail_job.mail_job_id ASC
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED;

-- name: find_hanging
-- Lock the first RUNNING mail job of a kind without a heartbeat since then, but for those already passed over.
SELECT mail_job.mail_job_id, mail_job.parent_id, mail_job.queued_at, mail_job.heartbeat_at,
    (SELECT release.expires_at FROM release WHERE release.release_id = mail_job.release_id) AS release_expires_at
FROM mail_job
WHERE mail_job.state = 'RUNNING' AND mail_job.kind = CAST(:kind AS mail_job_kind)
    AND mail_job.heartbeat_at < CAST(:hung_before AS timestamptz)
    AND mail_job.installation_id = CAST(:installation_id AS integer)
    AND mail_job.mail_job_id <> ALL(CAST(:passed_over AS bigint[]))
    AND (
        SELECT campaign.state <> 'paused'
        FROM release INNER JOIN campaign ON release.campaign_id = campaign.campaign_id
        WHERE release.release_id = mail_job.release_id
    )
ORDER BY mail_job.priority DESC, mail_job.queued_at ASC, mail_job.mail_job_id ASC
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED;

-- name: try_holder_lock
-- Take the lock that the holder of a mail job keeps for as long as its session lives, until this transaction ends.
SELECT pg_try_advisory_xact_lock(hashtextextended('mail_orchestration.mail_job', CAST(:mail_job_id AS bigint)));

-- name: recover_mail_job
-- Replace a mail job by a new one of the same range; the old one's fence holds for nobody any more.
WITH old AS (
    UPDATE mail_job
    SET state = 'RECOVERED', reason = :reason, fence = fence + 1, ended_at = CAST(:now AS timestamptz)
    WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'RECOVERING')
    RETURNING *
),

new AS (
    INSERT INTO mail_job (
        release_id, installation_id, parent_id, recovers_id, kind, state, priority, created_at, queued_at, started_at,
        first_message, last_message, mailcaster, fence, heartbeat_at
    )
    SELECT release_id, installation_id, parent_id, mail_job_id, kind, 'RUNNING', priority, CAST(:now AS timestamptz),
        queued_at, CAST(:now AS timestamptz), first_message, last_message, :mailcaster, fence, CAST(:now AS timestamptz)
    FROM old
    RETURNING *
)

SELECT new.mail_job_id, new.installation_id, new.release_id, release.released_on, new.parent_id, new.kind,
    new.first_message, new.last_message, new.fence, new.mailcaster, new.recovers_id
FROM new INNER JOIN release ON new.release_id = release.release_id;

-- name: try_lock_parent
-- Lock a parent unless somebody else has it.
SELECT mail_job_id FROM mail_job WHERE mail_job_id = CAST(:parent_id AS bigint) FOR NO KEY UPDATE SKIP LOCKED;

-- name: fail_expired
-- A mail job that is too old to be recovered fails, and its fence holds for nobody any more.
UPDATE mail_job
SET state = 'FAILED', reason = :reason, fence = fence + 1, ended_at = CAST(:now AS timestamptz)
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'RECOVERING')
RETURNING mail_job_id;

-- name: record_expired
-- Every message of a mail job's range that has no result expired.
INSERT INTO result (released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, relay)
SELECT message.released_on, message.release_id, message.message_no, mail_job.mail_job_id, message.contact_id,
    CAST(:now AS timestamptz), 'expired', ''
FROM mail_job
INNER JOIN release ON mail_job.release_id = release.release_id
INNER JOIN assembled_message AS message
    ON release.released_on = message.released_on AND mail_job.release_id = message.release_id
        AND message.message_no BETWEEN mail_job.first_message AND mail_job.last_message
WHERE mail_job.mail_job_id = CAST(:mail_job_id AS bigint)
    AND NOT EXISTS (
        SELECT FROM result
        WHERE result.released_on = message.released_on AND result.release_id = message.release_id
            AND result.message_no = message.message_no
    );
