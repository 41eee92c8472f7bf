-- Statements of dispatch/releases.py: what a release freezes, and which releases wait for what.

-- name: freeze_content
-- Keep one file under its hash; the same content is kept once.
INSERT INTO content (sha256, bytes) VALUES (CAST(:sha256 AS bytea), CAST(:bytes AS bytea))
ON CONFLICT (sha256) DO NOTHING;

-- name: read_content
-- The files with these hashes.
SELECT sha256, bytes FROM content WHERE sha256 = ANY(CAST(:hashes AS bytea[]));

-- name: register_campaign
-- Make the campaign known or note its new digest and folder; a paused campaign stays paused, a deleted one lives again.
INSERT INTO campaign AS known (
    installation_id, name, state, resumes_as, digest, changed_at, folder, folder_host, folder_inode
)
VALUES (
    CAST(:installation_id AS integer), :name, :state, :state, CAST(:digest AS bytea), CAST(:now AS timestamptz),
    CAST(:folder AS text), CAST(:folder_host AS text), CAST(:folder_inode AS numeric)
)
ON CONFLICT (installation_id, name) DO UPDATE
SET digest = excluded.digest,
    state = CASE WHEN known.state = 'paused' THEN known.state ELSE excluded.state END,
    resumes_as = excluded.resumes_as,
    changed_at = CASE WHEN known.digest = excluded.digest THEN known.changed_at ELSE excluded.changed_at END,
    folder = excluded.folder,
    folder_host = excluded.folder_host,
    folder_inode = excluded.folder_inode
RETURNING campaign_id, state;

-- name: lock_release_request
-- Two releases under one request key wait for each other, so that the second finds the first.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.release.' || CAST(:request_key AS text), 0));

-- name: release_of_request
-- The release that was made under a request key.
SELECT release_id FROM release WHERE request_key = :request_key;

-- name: insert_release
-- Freeze what was released.
INSERT INTO release (
    release_id, campaign_id, released_at, released_on, request_key, files, digest, content_digest, occurrence, again,
    topic, starts_at, expires_at, canary_messages, canary_most_rejected, is_dry_run, audience_ids, excluded_audience_ids,
    frequency_policy, frequency_rules, shelf_life_days, counts
) VALUES (
    CAST(:release_id AS bigint), CAST(:campaign_id AS integer), CAST(:released_at AS timestamptz),
    CAST(:released_on AS date), CAST(:request_key AS text), CAST(:files AS jsonb), CAST(:digest AS bytea),
    CAST(:content_digest AS bytea), :occurrence, CAST(:again AS boolean), :topic,
    CAST(:starts_at AS timestamptz), CAST(:expires_at AS timestamptz),
    CAST(:canary_messages AS integer), CAST(:canary_most_rejected AS numeric), CAST(:is_dry_run AS boolean),
    CAST(:audience_ids AS integer[]), CAST(:excluded_audience_ids AS integer[]),
    :frequency_policy, CAST(:frequency_rules AS jsonb), CAST(:shelf_life_days AS integer), CAST(:counts AS boolean)
);

-- name: read_release
-- One release with its campaign's name and its mail job's state.
SELECT r.release_id, r.released_at, r.released_on, r.files, r.occurrence, r.again, r.topic, r.starts_at, r.expires_at,
    r.is_dry_run, r.frequency_policy, r.frequency_rules, r.shelf_life_days, r.counts, r.held_from, r.audience_ids,
    r.excluded_audience_ids, r.resolved_at, r.audience_rows, r.duplicates, r.recipient_count, r.assembled_up_to,
    r.assembled_at, r.message_count, r.bypassed_count, r.dictionary, r.reported_at, c.name AS campaign, j.state, j.reason
FROM release AS r
INNER JOIN campaign AS c USING (campaign_id)
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.release_id = CAST(:release_id AS bigint) AND j.installation_id = CAST(:installation_id AS integer);

-- name: releases_to_assemble
-- Mail jobs that were released and are not assembled yet, the most important and oldest first. A dry run is carried on
-- by whoever asked for it.
SELECT j.mail_job_id
FROM mail_job AS j
INNER JOIN release AS r ON r.release_id = j.mail_job_id
WHERE j.state = 'QUEUING' AND j.installation_id = CAST(:installation_id AS integer) AND r.assembled_at IS NULL
    AND NOT r.is_dry_run
ORDER BY j.priority DESC, j.mail_job_id;

-- name: releases_to_queue
-- Assembled mail jobs whose start time has come.
SELECT j.mail_job_id
FROM mail_job AS j
INNER JOIN release AS r ON r.release_id = j.mail_job_id
WHERE j.state = 'QUEUING' AND j.installation_id = CAST(:installation_id AS integer) AND r.assembled_at IS NOT NULL
    AND (r.starts_at IS NULL OR r.starts_at <= CAST(:now AS timestamptz)) AND NOT r.is_dry_run
ORDER BY j.priority DESC, j.mail_job_id;

-- name: releases_to_report
-- Mail jobs that have ended and have no report yet. A small one that was recovered has ended with the last of its chain.
SELECT r.release_id
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.reported_at IS NULL AND j.ended_at IS NOT NULL AND NOT r.is_dry_run AND j.installation_id = CAST(:installation_id AS integer)
    AND NOT EXISTS (SELECT FROM mail_job AS live WHERE live.release_id = r.release_id AND live.ended_at IS NULL)
ORDER BY r.release_id;

-- name: stop_cut_off_dry_runs
-- Dry runs that nobody carried to their end within a day.
UPDATE mail_job SET state = 'STOPPED', reason = :reason, ended_at = CAST(:now AS timestamptz)
FROM release
WHERE release.release_id = mail_job.mail_job_id AND release.is_dry_run
    AND mail_job.state IN ('QUEUING', 'INTERRUPTED') AND release.released_at < CAST(:before AS timestamptz)
RETURNING mail_job.mail_job_id;

-- name: mark_reported
-- The mail job's report is written, if it has ended.
UPDATE release SET reported_at = CAST(:now AS timestamptz)
FROM mail_job AS j
WHERE j.mail_job_id = release.release_id AND j.ended_at IS NOT NULL AND release.reported_at IS NULL
    AND release.release_id = CAST(:release_id AS bigint)
    AND NOT EXISTS (SELECT FROM mail_job AS live WHERE live.release_id = release.release_id AND live.ended_at IS NULL);

-- name: forget_resolving
-- A release that was cut off in dedup begins again: dedup was one transaction, so nothing is left of it.
UPDATE release SET resolving_since = NULL WHERE release_id = CAST(:release_id AS bigint) AND resolved_at IS NULL;

-- name: keep_dictionary
-- The dictionary that this release's messages are compressed against, set once.
UPDATE release SET dictionary = CAST(:sha256 AS bytea), assembling_since = CAST(:now AS timestamptz)
WHERE release_id = CAST(:release_id AS bigint) AND dictionary IS NULL;

-- name: try_lock_assembly
-- One assembler at a time works on a release; the lock goes with the session.
SELECT pg_try_advisory_lock(hashtextextended('mail_orchestration.assembly.' || CAST(:release_id AS bigint), 0));

-- name: assembly_so_far
-- How many recipients dedup left to be assembled, and how many of those could not be composed.
SELECT
    (
        SELECT count(*) FROM recipient
        WHERE released_on = CAST(:released_on AS date) AND release_id = CAST(:release_id AS bigint) AND bypass_reason IS NULL
    ) - count(*) FILTER (WHERE stage IN ('preprocess', 'filter')) AS to_assemble,
    count(*) FILTER (WHERE stage = 'compose') AS failed
FROM bypass
WHERE released_on = CAST(:released_on AS date) AND release_id = CAST(:release_id AS bigint);
