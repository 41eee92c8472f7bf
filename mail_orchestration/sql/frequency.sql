-- How often somebody is written to: the lock, the policy that holds, counters and places (spec 8); the gate's
-- statements are in frequency_gate.sql.

-- name: lock_frequency
-- Whoever counts, takes or gives back places, holds mails or lets them go does it one after the other: see kernel/frequency_lock.py.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.frequency.' || CAST(:installation_id AS integer), 0));

-- name: read_frequency_policy
-- The policy that holds for an installation, as it was applied last.
SELECT policy, counted_for, applied_at FROM frequency_policy WHERE installation_id = CAST(:installation_id AS integer);

-- name: find_days_counted_in
-- The time zone in whose days the policy that holds has counted.
SELECT i.settings ->> 'time_zone' FROM installation AS i
INNER JOIN frequency_policy AS p ON p.installation_id = i.installation_id
WHERE i.installation_id = CAST(:installation_id AS integer);


-- Counters and places --------------------------------------------------------------------------------------------

-- name: put_policy_in_force
-- A policy holds from now on: its rules are what the counters count.
INSERT INTO frequency_policy (installation_id, policy, counted_for, applied_at)
VALUES (CAST(:installation_id AS integer), CAST(:policy AS jsonb), CAST(:today AS date), CAST(:now AS timestamptz))
ON CONFLICT (installation_id) DO UPDATE
SET policy = excluded.policy, counted_for = greatest(frequency_policy.counted_for, excluded.counted_for),
    applied_at = excluded.applied_at, figures = NULL;

-- name: count_for_day
-- The counters are about to count for another day.
UPDATE frequency_policy SET counted_for = CAST(:today AS date)
WHERE installation_id = CAST(:installation_id AS integer) AND counted_for < CAST(:today AS date);

-- name: set_count_memory
-- Room for one pass over the daily log in this transaction: 192 MB for each of its two hash tables, of the contacts' sums and
-- for the join with the counters; what does not fit goes to disk. And no look-up for each contact, should they be taken for few.
SELECT set_config('work_mem', '48MB', TRUE), set_config('hash_mem_multiplier', '4', TRUE), set_config('enable_nestloop', 'off', TRUE);

-- name: count_windows
-- The mails in each window, from the daily log in one pass; who is in none of it any more has none. Rows that are right
-- already are not written. The condition stands outside the union: within it PostgreSQL would hand each row of the log through
-- two more nodes, and guess at the number of contacts; the night took a quarter longer.
MERGE INTO frequency_counter AS c
USING (
    SELECT contact_id,
        CAST(coalesce(sum(mails) FILTER (WHERE day >= (CAST(:firsts AS date[]))[1]), 0) AS integer) AS mails_1,
        CAST(coalesce(sum(mails) FILTER (WHERE day >= (CAST(:firsts AS date[]))[2]), 0) AS integer) AS mails_2,
        CAST(coalesce(sum(mails) FILTER (WHERE day >= (CAST(:firsts AS date[]))[3]), 0) AS integer) AS mails_3,
        CAST(coalesce(sum(mails) FILTER (WHERE day >= (CAST(:firsts AS date[]))[4]), 0) AS integer) AS mails_4
    FROM (
        SELECT contact_id, installation_id, day, mails FROM daily_mail_count
        UNION ALL
        SELECT contact_id, installation_id, CAST('infinity' AS date), 0 FROM frequency_counter
    ) AS logged
    WHERE installation_id = CAST(:installation_id AS integer) AND day >= CAST(:first AS date)
    GROUP BY contact_id
) AS w ON c.contact_id = w.contact_id
WHEN MATCHED AND (c.mails_1, c.mails_2, c.mails_3, c.mails_4) <> (w.mails_1, w.mails_2, w.mails_3, w.mails_4) THEN
    UPDATE SET mails_1 = w.mails_1, mails_2 = w.mails_2, mails_3 = w.mails_3, mails_4 = w.mails_4
WHEN NOT MATCHED THEN
    INSERT (contact_id, installation_id, mails_1, mails_2, mails_3, mails_4)
    VALUES (w.contact_id, CAST(:installation_id AS integer), w.mails_1, w.mails_2, w.mails_3, w.mails_4);

-- name: find_open_releases
-- Releases whose places may still be given back, and whether anything of them may still be sent; all, or one.
SELECT r.release_id, r.released_on,
    release_may_send(r.release_id, CAST(:now AS timestamptz), CAST(:queued_after AS timestamptz)) AS may_send
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.takes_places AND r.places_settled_at IS NULL AND j.installation_id = CAST(:installation_id AS integer)
    AND (CAST(:only AS bigint) IS NULL OR r.release_id = CAST(:only AS bigint))
ORDER BY r.release_id;

-- name: give_back_places
-- Places of a release on its way that nobody needs any more: bypassed after the gate, or ended without a result by which
-- the mail may have arrived; a deferred one ends so when the operator deletes it. Once for each, however often it is run.
WITH ended AS (
    SELECT p.contact_id FROM bypass AS b
    INNER JOIN recipient AS p
        ON p.released_on = b.released_on AND p.release_id = b.release_id AND p.recipient_no = b.recipient_no
    WHERE b.released_on = CAST(:released_on AS date) AND b.release_id = CAST(:release_id AS bigint)
        AND b.stage NOT IN ('preprocess', 'filter', 'frequency')
    UNION
    SELECT r.contact_id FROM result AS r
    WHERE r.released_on = CAST(:released_on AS date) AND r.release_id = CAST(:release_id AS bigint)
        AND (
            r.outcome IN ('rejected', 'stopped', 'expired')
            OR (r.outcome = 'deferred' AND r.message_no IN (
                SELECT d.message_no FROM delivery_log AS d
                WHERE d.release_id = CAST(:release_id AS bigint) AND d.outcome = 'deferred'
            ))
        )
        AND NOT EXISTS (
            SELECT FROM result AS other
            WHERE other.released_on = r.released_on AND other.release_id = r.release_id AND other.message_no = r.message_no
                AND (other.result_no > r.result_no OR other.outcome IN ('accepted', 'uncertain'))
        )
        AND NOT EXISTS (
            SELECT FROM loose_mail AS l
            WHERE l.kind = 'retry' AND l.release_id = r.release_id AND l.message_no = r.message_no
        )
),
given_back AS (
    INSERT INTO place_given_back (released_on, release_id, contact_id)
    SELECT CAST(:released_on AS date), CAST(:release_id AS bigint), e.contact_id FROM ended AS e
    ON CONFLICT DO NOTHING
    RETURNING contact_id
)
UPDATE frequency_counter SET places = frequency_counter.places - 1
FROM given_back AS g
WHERE frequency_counter.contact_id = g.contact_id;

-- name: give_back_rest
-- Nothing of a release is sent any more: whoever passed its gate and got nothing that counts gives the place back.
WITH arrived AS (
    SELECT r.contact_id FROM result AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    INNER JOIN installation AS i ON i.installation_id = j.installation_id
    WHERE r.released_on = CAST(:released_on AS date) AND r.release_id = CAST(:release_id AS bigint)
        AND r.outcome IN ('accepted', 'uncertain')
    GROUP BY r.contact_id
    HAVING min(r.occurred_at) >= coalesce(min(i.log_begins_at), '-infinity')
),
given_back AS (
    INSERT INTO place_given_back (released_on, release_id, contact_id)
    SELECT p.released_on, p.release_id, p.contact_id
    FROM recipient AS p
    WHERE p.released_on = CAST(:released_on AS date) AND p.release_id = CAST(:release_id AS bigint)
        AND p.bypass_reason IS NULL
        AND NOT EXISTS (
            SELECT FROM bypass AS b
            WHERE b.released_on = p.released_on AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
                AND b.stage IN ('preprocess', 'filter', 'frequency')
        )
        AND NOT EXISTS (SELECT FROM arrived AS a WHERE a.contact_id = p.contact_id)
    ON CONFLICT DO NOTHING
    RETURNING contact_id
)
UPDATE frequency_counter SET places = frequency_counter.places - 1
FROM given_back AS g
WHERE frequency_counter.contact_id = g.contact_id;

-- name: find_end_of_release
-- When the last mail job or the last retry of a release ended.
SELECT greatest(
    (SELECT max(j.ended_at) FROM mail_job AS j WHERE j.release_id = CAST(:release_id AS bigint)),
    (SELECT max(d.ended_at) FROM delivery_log AS d WHERE d.release_id = CAST(:release_id AS bigint))
);

-- name: find_span_of_arrivals
-- From when until when mails of a release may have arrived.
SELECT min(occurred_at) AS first_at, max(occurred_at) AS last_at FROM result
WHERE released_on = CAST(:released_on AS date) AND release_id = CAST(:release_id AS bigint)
    AND outcome IN ('accepted', 'uncertain');

-- name: find_closed_days
-- The days of a span that are closed; all, or those that were closed before a moment.
SELECT day FROM closed_day
WHERE installation_id = CAST(:installation_id AS integer) AND day BETWEEN CAST(:first AS date) AND CAST(:last AS date)
    AND (CAST(:before AS timestamptz) IS NULL OR closed_at < CAST(:before AS timestamptz))
ORDER BY day;

-- name: find_last_closed_day
-- The last day whose mails are in the daily log.
SELECT max(day) FROM closed_day WHERE installation_id = CAST(:installation_id AS integer);

-- name: settle_places
-- No place of the release will be given back any more.
UPDATE release SET places_settled_at = CAST(:now AS timestamptz)
WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date) AND takes_places;

-- name: find_releases_without_places
-- Releases of which something may still be sent, or arrived on a day that is not closed, while no policy held.
SELECT r.release_id, r.released_on
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE j.installation_id = CAST(:installation_id AS integer) AND r.counts AND NOT r.is_dry_run AND NOT r.takes_places
    AND r.resolved_at IS NOT NULL AND r.results_dropped_at IS NULL
    AND (
        release_may_send(r.release_id, CAST(:now AS timestamptz), CAST(:queued_after AS timestamptz))
        OR EXISTS (
            SELECT FROM result AS s
            WHERE s.released_on = r.released_on AND s.release_id = r.release_id
                AND s.occurred_at >= CAST(:open_since AS timestamptz)
        )
    )
ORDER BY r.release_id;


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

-- name: forget_places
-- No release has places any more. Which were given back stays known, so that a next policy does not give them once more.
UPDATE release SET takes_places = FALSE, places_settled_at = NULL
FROM mail_job AS j
WHERE release.takes_places AND j.mail_job_id = release.release_id AND j.installation_id = CAST(:installation_id AS integer);

-- name: begin_daily_log_anew
-- The daily log forgets what was sent before now, though results of it are kept.
UPDATE installation SET log_begins_at = CAST(:now AS timestamptz) WHERE installation_id = CAST(:installation_id AS integer);

-- name: drop_frequency_policy
-- No policy holds.
DELETE FROM frequency_policy WHERE installation_id = CAST(:installation_id AS integer);
