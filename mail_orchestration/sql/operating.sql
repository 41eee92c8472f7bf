-- Statements of dispatch/operating.py, stopping.py and restarting.py: the operator stops and restarts mail jobs (spec 5.6).
--
-- Rows are waited for here and never passed over: what a claim or a recovery has in hand at this very moment must not slip
-- through. Order of locks, as everywhere: the parent, then its children by number.

-- name: find_last_of_chain
-- The mail job that stands for this one now: the last of its recovery chain.
WITH RECURSIVE chain AS (
    SELECT mail_job_id, parent_id, 0 AS step
    FROM mail_job
    WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND installation_id = CAST(:installation_id AS integer)
    UNION ALL
    SELECT successor.mail_job_id, successor.parent_id, chain.step + 1
    FROM chain INNER JOIN mail_job AS successor ON chain.mail_job_id = successor.recovers_id
)
SELECT mail_job_id, parent_id FROM chain ORDER BY step DESC LIMIT 1;

-- name: free_held_mails
-- A mail job is about to be restarted: what was held in it may go again. Before any mail job is locked, as its campaign is
-- everywhere.
UPDATE campaign SET held_mails_freed = TRUE
WHERE NOT held_mails_freed
    AND campaign_id IN (
        SELECT r.campaign_id
        FROM mail_job AS j
        INNER JOIN release AS r ON r.release_id = j.release_id
        WHERE j.mail_job_id = CAST(:mail_job_id AS bigint) AND j.installation_id = CAST(:installation_id AS integer)
            AND EXISTS (SELECT FROM held_mail AS h WHERE h.release_id = r.release_id)
    );

-- name: lock_to_operate
-- One mail job, locked, with what a stop or a restart must know of it.
SELECT mail_job_id, release_id, parent_id, kind, state, asked_state, queued_at, heartbeat_at, first_message, last_message,
    next_message,
    (SELECT release.released_on FROM release WHERE release.release_id = mail_job.release_id) AS released_on,
    (SELECT release.expires_at FROM release WHERE release.release_id = mail_job.release_id) AS release_expires_at
FROM mail_job
WHERE mail_job_id = CAST(:mail_job_id AS bigint)
FOR NO KEY UPDATE;

-- name: lock_children_to_operate
-- The children of a parent that have not finished, locked. One that is recovered meanwhile has a successor, which this
-- look does not see: look again until no more are found.
SELECT mail_job_id, release_id, parent_id, kind, state, asked_state, queued_at, heartbeat_at, first_message, last_message,
    next_message,
    (SELECT release.released_on FROM release WHERE release.release_id = mail_job.release_id) AS released_on,
    (SELECT release.expires_at FROM release WHERE release.release_id = mail_job.release_id) AS release_expires_at
FROM mail_job
WHERE parent_id = CAST(:parent_id AS bigint) AND state NOT IN ('RECOVERED', 'FINISHED')
ORDER BY mail_job_id
FOR NO KEY UPDATE;

-- name: find_mail_jobs_to_stop
-- What is not stopped and has not ended, by the number of the release's mail job; all of an installation or one campaign's.
-- Those that are still being assembled come last: dedup may have them locked for a while.
SELECT coalesce(mail_job.parent_id, mail_job.mail_job_id) AS mail_job_id
FROM mail_job
WHERE mail_job.installation_id = CAST(:installation_id AS integer)
    AND mail_job.state IN (
        'QUEUING', 'INTERRUPTED', 'QUEUED', 'P_QUEUED', 'P_ASSIGNING', 'P_ASSIGNED', 'RUNNING', 'STOPPING', 'RECOVERING'
    )
    AND (
        CAST(:campaign_id AS integer) IS NULL
        OR mail_job.release_id IN (SELECT release_id FROM release WHERE campaign_id = CAST(:campaign_id AS integer))
    )
GROUP BY 1
ORDER BY bool_or(mail_job.state IN ('QUEUING', 'INTERRUPTED')), 1;

-- name: find_mail_jobs_to_restart
-- What is stopped or is to be, by the number of the release's mail job; all of an installation or one campaign's.
SELECT coalesce(mail_job.parent_id, mail_job.mail_job_id) AS mail_job_id
FROM mail_job
WHERE mail_job.installation_id = CAST(:installation_id AS integer)
    AND (
        mail_job.state IN ('STOPPED_Q', 'STOPPED_R', 'STOPPING')
        OR (mail_job.state IN ('QUEUING', 'INTERRUPTED') AND mail_job.asked_state IS NOT NULL)
    )
    AND (
        CAST(:campaign_id AS integer) IS NULL
        OR mail_job.release_id IN (SELECT release_id FROM release WHERE campaign_id = CAST(:campaign_id AS integer))
    )
GROUP BY 1
ORDER BY 1;

-- name: find_campaign_by_name
-- The number of a campaign that was released at some time.
SELECT campaign_id FROM campaign WHERE installation_id = CAST(:installation_id AS integer) AND name = :name;

-- name: ask_for_state
-- Note what the operator asked for, of a mail job that can do it only when it leaves its present state.
UPDATE mail_job SET asked_state = CAST(:asked AS mail_job_state)
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state = CAST(:state AS mail_job_state)
RETURNING state;

-- name: queue_again
-- What was stopped while it waited enters the queue anew: its age counts from now.
UPDATE mail_job
SET state = CASE kind WHEN 'small' THEN CAST('QUEUED' AS mail_job_state) ELSE 'P_QUEUED' END,
    queued_at = CAST(:now AS timestamptz), reason = ''
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state = 'STOPPED_Q'
RETURNING state;

-- name: find_silent_stopping
-- Mail jobs that are to stop and whose holder has been silent for longer than a living one ever is.
SELECT mail_job_id, installation_id
FROM mail_job
WHERE state = 'STOPPING' AND heartbeat_at < CAST(:silent_before AS timestamptz)
    AND installation_id = CAST(:installation_id AS integer)
ORDER BY mail_job_id;

-- name: end_stopping_of_dead
-- Its holder is dead and cannot let go: do it in its place, and make its fence worthless.
UPDATE mail_job
SET state = CASE
        WHEN CAST(:is_complete AS boolean) THEN CAST('FINISHED' AS mail_job_state)
        WHEN asked_state = 'RECOVERING' THEN 'RECOVERING'
        ELSE 'STOPPED_R'
    END,
    ended_at = CASE WHEN CAST(:is_complete AS boolean) THEN CAST(:now AS timestamptz) END,
    asked_state = NULL,
    fence = fence + 1
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state = 'STOPPING'
RETURNING state;

-- name: forget_report
-- A release that goes on will be reported once more.
UPDATE release SET reported_at = NULL WHERE release_id = CAST(:release_id AS bigint) AND reported_at IS NOT NULL;
