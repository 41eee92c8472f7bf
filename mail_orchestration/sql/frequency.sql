-- How often somebody is written to: the lock, the policy that holds, the gate, counters and places (spec 8).

-- name: lock_frequency
-- Whoever counts, takes or gives back places, holds mails or lets them go does it one after the other: see kernel/frequency_lock.py.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.frequency.' || CAST(:installation_id AS integer), 0));

-- name: read_frequency_policy
-- The policy that holds for an installation, as it was applied last.
SELECT policy, counted_for, applied_at FROM frequency_policy WHERE installation_id = CAST(:installation_id AS integer);


-- Disabling the policy (feedback/frequency_history.py) -----------------------------------------------------------

-- name: read_history
-- How much the daily log of an installation tells.
SELECT count(*) AS days, min(day) AS first_day, CAST(coalesce(sum(mails), 0) AS bigint) AS mails FROM closed_day
WHERE installation_id = CAST(:installation_id AS integer) AND mails > 0;

-- name: drop_daily_log
-- Nothing is known any more of how often anybody was written to.
DELETE FROM daily_mail_count WHERE installation_id = CAST(:installation_id AS integer);

-- name: empty_closed_days
-- Days stay closed, with nothing in them.
UPDATE closed_day SET mails = 0, contacts = 0 WHERE installation_id = CAST(:installation_id AS integer) AND mails > 0;

-- name: drop_counters
-- Nor what is counted now.
DELETE FROM frequency_counter WHERE installation_id = CAST(:installation_id AS integer);

-- name: drop_places_given_back
-- What was given back is of no policy any more: under a next one the same recipient has another place.
DELETE FROM place_given_back AS g
USING release AS r, mail_job AS j
WHERE r.takes_places AND j.installation_id = CAST(:installation_id AS integer) AND j.mail_job_id = r.release_id
    AND g.released_on = r.released_on AND g.release_id = r.release_id;

-- name: forget_places
-- No release has places any more.
UPDATE release SET takes_places = FALSE, places_settled_at = NULL
FROM mail_job AS j
WHERE release.takes_places AND j.mail_job_id = release.release_id AND j.installation_id = CAST(:installation_id AS integer);

-- name: begin_daily_log_anew
-- The daily log forgets what was sent before now, though results of it are kept.
UPDATE installation SET log_begins_at = CAST(:now AS timestamptz) WHERE installation_id = CAST(:installation_id AS integer);

-- name: drop_frequency_policy
-- No policy holds.
DELETE FROM frequency_policy WHERE installation_id = CAST(:installation_id AS integer);
