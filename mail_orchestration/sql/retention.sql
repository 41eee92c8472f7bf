-- Statements of kernel/partitions.py and dispatch/retention.py: what is old goes, by partition and not by row (spec 6.5).

-- name: ensure_day
-- The partitions of one day, made where they are missing.
SELECT ensure_day_partitions(CAST(:day AS date));

-- name: look_briefly
-- ANALYZE looks at 3,000 rows in this transaction, not at 30,000: the small part of what wrote them that it is to be.
SELECT set_config('default_statistics_target', '10', TRUE);

-- name: list_day_partitions
-- The partitions of days with their tables, also those that are out of their table or on the way, which come first.
SELECT parent.relname AS parent, p.relname AS name, to_date(right(p.relname, 8), 'YYYYMMDD') AS day,
    i.inhrelid IS NOT NULL AS is_attached, coalesce(i.inhdetachpending, FALSE) AS is_pending,
    coalesce(pg_total_relation_size(p.oid), 0) AS octets
FROM pg_class AS parent
INNER JOIN pg_class AS p
    ON parent.relnamespace = p.relnamespace AND p.relkind = 'r' AND p.relname ~ ('^' || parent.relname || '_[0-9]{8}$')
LEFT JOIN pg_inherits AS i ON p.oid = i.inhrelid AND parent.oid = i.inhparent
WHERE parent.relkind = 'p' AND parent.relnamespace = CAST(current_schema() AS regnamespace)
ORDER BY is_pending DESC, is_attached, day, parent.relname;

-- name: try_lock_retention
-- One session at a time drops partitions, of whatever installation; the lock ends with the session.
SELECT pg_try_advisory_lock(hashtextextended('mail_orchestration.retention', 0));

-- name: note_retention
-- How long an installation keeps what: partitions hold the rows of all of them.
INSERT INTO retention (installation_id, what, days)
SELECT CAST(:installation_id AS integer), wanted.what, wanted.days
FROM unnest(CAST(:whats AS text[]), CAST(:days AS integer[])) AS wanted (what, days)
ON CONFLICT (installation_id, what) DO UPDATE SET days = excluded.days WHERE retention.days <> excluded.days;

-- name: longest_retention
-- What is kept for how long: as long as the most careful installation says, where one that has said nothing keeps it for
-- so many days.
SELECT usual.what, max(coalesce(r.days, usual.days)) AS days
FROM installation AS i
CROSS JOIN unnest(CAST(:whats AS text[]), CAST(:days AS integer[])) AS usual (what, days)
LEFT JOIN retention AS r ON i.installation_id = r.installation_id AND usual.what = r.what
GROUP BY usual.what;

-- name: lock_releases_of_day
-- The mail jobs of a day's releases, locked: none of them is restarted while it is looked whether any needs the day.
SELECT mail_job_id FROM mail_job
WHERE parent_id IS NULL AND release_id IN (SELECT release_id FROM release WHERE released_on = CAST(:day AS date))
ORDER BY mail_job_id
FOR NO KEY UPDATE;

-- name: closed_up_to
-- Up to when the days of all installations that released something on a day are closed: a day that is closed, whatever the
-- time zone, has lasted until ten in the morning by Greenwich at the least. Null without a release.
SELECT min(closed.up_to)
FROM (
    SELECT coalesce(
        (SELECT max(c.day) FROM closed_day AS c WHERE c.installation_id = j.installation_id) + CAST('10 hours' AS interval),
        CAST('epoch' AS timestamp)
    ) AS up_to
    FROM release AS r
    INNER JOIN mail_job AS j ON r.release_id = j.mail_job_id
    WHERE r.released_on = CAST(:day AS date)
    GROUP BY j.installation_id
) AS closed;

-- name: why_day_is_kept
-- What still needs the messages of a day's releases, and what their results, with the number of each.
SELECT why.reason, why.number
FROM (
    SELECT 'mail jobs that have not ended' AS reason, FALSE AS of_results, count(*) AS number
    FROM mail_job AS j
    INNER JOIN release AS r ON j.release_id = r.release_id
    WHERE r.released_on = CAST(:day AS date) AND j.ended_at IS NULL
    UNION ALL
    SELECT 'mails that are to be sent again, or failed and wait for the operator', FALSE, count(*)
    FROM loose_mail WHERE released_on = CAST(:day AS date) AND state <> 'STOPPED'
    UNION ALL
    SELECT 'uncertain messages that the operator has not settled', FALSE, count(*)
    FROM uncertain_message WHERE released_on = CAST(:day AS date) AND may_be_repeated
    UNION ALL
    SELECT 'mail jobs that were queued within the history', TRUE, count(*)
    FROM mail_job AS j
    INNER JOIN release AS r ON j.mail_job_id = r.release_id
    WHERE r.released_on = CAST(:day AS date) AND j.queued_at > CAST(:history_since AS timestamptz)
    UNION ALL
    SELECT 'mail jobs with places in the frequency counters that may still be given back', TRUE, count(*)
    FROM release WHERE released_on = CAST(:day AS date) AND takes_places AND places_settled_at IS NULL
    UNION ALL
    SELECT 'results that the daily log has not counted', TRUE, count(*)
    FROM result
    WHERE released_on = CAST(:day AS date) AND outcome IN ('accepted', 'uncertain')
        AND occurred_at >= CAST(:closed_up_to AS timestamptz)
) AS why
WHERE why.number > 0 AND (CAST(:with_results AS boolean) OR NOT why.of_results)
ORDER BY why.reason;

-- name: mark_dropped
-- From now on nobody asks for the messages of a day's releases, nor for their results: they are about to be dropped.
UPDATE release
SET messages_dropped_at = coalesce(messages_dropped_at, CAST(:now AS timestamptz)),
    results_dropped_at = CASE
        WHEN CAST(:with_results AS boolean) THEN coalesce(results_dropped_at, CAST(:now AS timestamptz))
        ELSE results_dropped_at
    END,
    reported_at = CASE WHEN CAST(:with_results AS boolean) THEN coalesce(reported_at, CAST(:now AS timestamptz)) ELSE reported_at END
WHERE released_on = CAST(:day AS date)
    AND (messages_dropped_at IS NULL OR (CAST(:with_results AS boolean) AND results_dropped_at IS NULL));

-- name: find_old_releases
-- Releases of long ago of which nothing is left but their record, and that no held mail needs.
SELECT release_id FROM release
WHERE released_on < CAST(:before AS date) AND results_dropped_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM held_mail AS h WHERE h.release_id = release.release_id)
ORDER BY release_id
LIMIT CAST(:most AS integer);

-- name: forget_mail_jobs_of_shifts
-- Shifts of long ago forget what they worked on.
UPDATE mailcaster_shift SET mail_job_id = NULL
WHERE mail_job_id IN (SELECT mail_job_id FROM mail_job WHERE release_id = ANY(CAST(:release_ids AS bigint[])));

-- name: delete_releases
-- The record of these releases goes.
DELETE FROM release WHERE release_id = ANY(CAST(:release_ids AS bigint[]));

-- name: delete_mail_jobs
-- And that of their mail jobs.
DELETE FROM mail_job WHERE release_id = ANY(CAST(:release_ids AS bigint[]));

-- name: are_messages_kept
-- Whether the messages of a release are still there.
SELECT messages_dropped_at IS NULL FROM release WHERE release_id = CAST(:release_id AS bigint);

-- name: find_mail_jobs_ended_before
-- Which of these mail jobs ended before a moment, or are not known any more.
SELECT given.mail_job_id
FROM unnest(CAST(:mail_job_ids AS bigint[])) AS given (mail_job_id)
LEFT JOIN mail_job AS j ON given.mail_job_id = j.mail_job_id
WHERE j.mail_job_id IS NULL OR j.ended_at < CAST(:before AS timestamptz);
