-- Statements of dispatch/campaigns.py: campaigns that are paused, edited or deleted, and their mail jobs that wait.
--
-- Waiting are the states in which nothing of a mail job was taken yet: QUEUING, INTERRUPTED, QUEUED and P_QUEUED.

-- name: list_campaigns
-- The campaigns of an installation that were ever released, with how many of their mail jobs wait and have begun.
SELECT c.name, c.state, c.changed_at, c.folder, max(r.released_at) AS released_at,
    count(j.mail_job_id) FILTER (WHERE j.state IN ('QUEUING', 'INTERRUPTED', 'QUEUED', 'P_QUEUED')) AS waiting,
    count(j.mail_job_id) FILTER (
        WHERE j.ended_at IS NULL AND j.state NOT IN ('QUEUING', 'INTERRUPTED', 'QUEUED', 'P_QUEUED')
    ) AS begun
FROM campaign AS c
LEFT JOIN release AS r ON c.campaign_id = r.campaign_id
LEFT JOIN mail_job AS j ON r.release_id = j.release_id AND j.parent_id IS NULL
WHERE c.installation_id = CAST(:installation_id AS integer)
GROUP BY c.campaign_id
ORDER BY c.name;

-- name: list_campaign_names
-- What campaigns of an installation are called.
SELECT name FROM campaign WHERE installation_id = CAST(:installation_id AS integer) ORDER BY name;

-- name: lock_campaign
-- A campaign by name, locked against a release of it that is being made.
SELECT campaign_id, state, resumes_as,
    EXISTS (SELECT FROM release WHERE release.campaign_id = campaign.campaign_id) AS was_released
FROM campaign
WHERE installation_id = CAST(:installation_id AS integer) AND name = :name
FOR NO KEY UPDATE;

-- name: change_campaign_state
-- Leave one of the named states for another. What a campaign was stays known while it is paused; what of it is held may go
-- when it is paused no more.
UPDATE campaign
SET state = :enters, held_mails_freed = held_mails_freed OR state = 'paused'
WHERE campaign_id = CAST(:campaign_id AS integer) AND state = ANY(CAST(:leaves AS text[]))
RETURNING state;

-- name: begun_mail_jobs
-- Mail jobs of a campaign that were begun and have not ended, children apart.
SELECT j.mail_job_id
FROM mail_job AS j
INNER JOIN release AS r ON j.release_id = r.release_id
WHERE r.campaign_id = CAST(:campaign_id AS integer) AND j.parent_id IS NULL AND j.ended_at IS NULL
    AND j.state NOT IN ('QUEUING', 'INTERRUPTED', 'QUEUED', 'P_QUEUED')
ORDER BY j.mail_job_id;

-- name: stop_waiting
-- Mail jobs of a campaign that wait, and say something else than this digest (null: whatever they say), are STOPPED. What
-- was held goes out as it was frozen, whatever the campaign says by now (spec 8.4).
UPDATE mail_job
SET state = 'STOPPED', reason = :reason, ended_at = CAST(:now AS timestamptz)
FROM release AS r
WHERE r.campaign_id = CAST(:campaign_id AS integer) AND mail_job.mail_job_id = r.release_id
    AND mail_job.state IN ('QUEUING', 'INTERRUPTED', 'QUEUED', 'P_QUEUED')
    AND (CAST(:digest AS bytea) IS NULL OR (r.digest <> CAST(:digest AS bytea) AND r.held_from IS NULL))
RETURNING mail_job.mail_job_id;

-- name: stop_edited
-- A mail job whose campaign was edited is STOPPED, if it still waits.
UPDATE mail_job
SET state = 'STOPPED', reason = :reason, ended_at = CAST(:now AS timestamptz)
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('QUEUING', 'INTERRUPTED', 'QUEUED', 'P_QUEUED')
RETURNING mail_job_id;

-- name: stop_waiting_of_deleted
-- What waits although its campaign is deleted, such as a mail job that was restarted since, is STOPPED.
UPDATE mail_job
SET state = 'STOPPED', reason = :reason, ended_at = CAST(:now AS timestamptz)
FROM release AS r
INNER JOIN campaign AS c ON r.campaign_id = c.campaign_id
WHERE mail_job.mail_job_id = r.release_id AND c.state = 'deleted'
    AND c.installation_id = CAST(:installation_id AS integer)
    AND mail_job.state IN ('QUEUING', 'INTERRUPTED', 'QUEUED', 'P_QUEUED') AND NOT r.is_dry_run
RETURNING mail_job.mail_job_id;

-- name: find_waiting_releases
-- Where the campaigns of waiting mail jobs (of this one, or of all) were released from, and what was frozen. An edit does
-- not concern those that send held mails.
SELECT r.release_id, r.files, c.name AS campaign, c.folder, c.folder_host, c.folder_inode
FROM mail_job AS j
INNER JOIN release AS r ON j.mail_job_id = r.release_id
INNER JOIN campaign AS c ON r.campaign_id = c.campaign_id
WHERE j.installation_id = CAST(:installation_id AS integer)
    AND j.state IN ('QUEUING', 'INTERRUPTED', 'QUEUED', 'P_QUEUED') AND c.folder IS NOT NULL
    AND NOT r.is_dry_run AND r.held_from IS NULL
    AND (CAST(:only AS bigint) IS NULL OR j.mail_job_id = CAST(:only AS bigint))
ORDER BY r.release_id;
