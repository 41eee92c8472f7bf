-- Statements of feedback/daily_counts.py, frequency_figures.py and frequency_correction.py: the daily log, and what it says
-- of how often anybody was written to.

-- name: has_mails_between
-- Whether any mail of the installation may have reached somebody in a span of time, for a day that may have none.
SELECT EXISTS (
    SELECT FROM result AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE r.occurred_at >= CAST(:starts_at AS timestamptz) AND r.occurred_at < CAST(:ends_at AS timestamptz)
        AND r.outcome IN ('accepted', 'uncertain') AND j.installation_id = CAST(:installation_id AS integer)
);

-- name: log_mails_of_day
-- The daily log of one day from its results. A message counts once, with the first result by which it may have arrived:
-- an uncertain one counts, and when it is sent again or settled it does not count again. Results are only ever added, so
-- that a repeat can only find more: the larger figure is right, also after retention dropped the results. What the log
-- grows by leaves the places and enters the windows in the counters, where a policy holds (firsts: the first day of each
-- rule's window): nothing a second time, and at no moment is a mail in neither. Whose place was given back, and whose
-- mail arrived all the same, has none to leave.
WITH found AS (
    SELECT r.contact_id, CAST(count(*) AS integer) AS mails,
        CAST(count(*) FILTER (WHERE s.takes_places AND g.contact_id IS NULL) AS integer) AS placed
    FROM result AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    INNER JOIN release AS s ON s.release_id = r.release_id
    LEFT JOIN place_given_back AS g
        ON g.released_on = r.released_on AND g.release_id = r.release_id AND g.contact_id = r.contact_id
    WHERE r.occurred_at >= CAST(:starts_at AS timestamptz) AND r.occurred_at < CAST(:ends_at AS timestamptz)
        AND r.outcome IN ('accepted', 'uncertain') AND j.installation_id = CAST(:installation_id AS integer) AND s.counts
        AND r.occurred_at >= (
            SELECT coalesce(i.log_begins_at, '-infinity') FROM installation AS i
            WHERE i.installation_id = CAST(:installation_id AS integer)
        )
        AND (
            r.result_no = 1
            OR NOT EXISTS (
                SELECT FROM result AS earlier
                WHERE earlier.released_on = r.released_on AND earlier.release_id = r.release_id
                    AND earlier.message_no = r.message_no AND earlier.result_no < r.result_no
                    AND earlier.outcome IN ('accepted', 'uncertain')
            )
        )
    GROUP BY r.contact_id
),
grown AS (
    SELECT f.contact_id, f.mails, f.placed,
        greatest(f.mails - coalesce(k.mails, 0), 0) AS more_mails,
        greatest(f.placed - coalesce(k.placed, 0), 0) AS more_placed
    FROM found AS f
    LEFT JOIN daily_mail_count AS k ON k.contact_id = f.contact_id AND k.day = CAST(:day AS date)
    WHERE f.mails > coalesce(k.mails, 0) OR f.placed > coalesce(k.placed, 0)
),
logged AS (
    INSERT INTO daily_mail_count AS known (day, installation_id, contact_id, mails, placed)
    SELECT CAST(:day AS date), CAST(:installation_id AS integer), g.contact_id, g.mails, g.placed FROM grown AS g
    ORDER BY g.contact_id
    ON CONFLICT (contact_id, day) DO UPDATE
    SET mails = greatest(known.mails, excluded.mails), placed = greatest(known.placed, excluded.placed)
)
INSERT INTO frequency_counter AS counter (contact_id, installation_id, mails_1, mails_2, mails_3, mails_4, places)
SELECT g.contact_id, CAST(:installation_id AS integer),
    CASE WHEN CAST(:day AS date) >= (CAST(:firsts AS date[]))[1] THEN g.more_mails ELSE 0 END,
    CASE WHEN CAST(:day AS date) >= (CAST(:firsts AS date[]))[2] THEN g.more_mails ELSE 0 END,
    CASE WHEN CAST(:day AS date) >= (CAST(:firsts AS date[]))[3] THEN g.more_mails ELSE 0 END,
    CASE WHEN CAST(:day AS date) >= (CAST(:firsts AS date[]))[4] THEN g.more_mails ELSE 0 END,
    -g.more_placed
FROM grown AS g
WHERE CAST(:firsts AS date[]) IS NOT NULL
ORDER BY g.contact_id
ON CONFLICT (contact_id) DO UPDATE
SET mails_1 = counter.mails_1 + excluded.mails_1, mails_2 = counter.mails_2 + excluded.mails_2,
    mails_3 = counter.mails_3 + excluded.mails_3, mails_4 = counter.mails_4 + excluded.mails_4,
    places = counter.places + excluded.places;

-- name: close_day
-- The day's totals, from the daily log itself.
INSERT INTO closed_day (installation_id, day, closed_at, mails, contacts)
SELECT
    CAST(:installation_id AS integer), CAST(:day AS date), CAST(:now AS timestamptz), coalesce(sum(c.mails), 0), count(*)
FROM daily_mail_count AS c
WHERE c.day = CAST(:day AS date) AND c.installation_id = CAST(:installation_id AS integer)
ON CONFLICT (installation_id, day) DO UPDATE
SET closed_at = excluded.closed_at, mails = excluded.mails, contacts = excluded.contacts
RETURNING mails, contacts;

-- name: closed_days
-- When each day of the installation was closed, and the moment of its first release, before which there is no mail.
SELECT c.day, c.closed_at, f.first_released_at
FROM (
    SELECT min(r.released_at) AS first_released_at
    FROM release AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE j.installation_id = CAST(:installation_id AS integer)
) AS f
LEFT JOIN closed_day AS c ON c.installation_id = CAST(:installation_id AS integer)
ORDER BY c.day;

-- name: count_contacts_by_mails
-- For each of up to four windows, how many contacts got how many mails. A mail of day D counts through D + days.
-- One pass and one group for each contact: a group for each window and contact took twice as long and more.
WITH per_contact AS (
    SELECT
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[1]) AS first,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[2]) AS second,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[3]) AS third,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[4]) AS fourth
    FROM daily_mail_count
    WHERE installation_id = CAST(:installation_id AS integer)
        AND day BETWEEN CAST(:first_day AS date) AND CAST(:today AS date)
    GROUP BY contact_id
),
alike AS (
    SELECT first, second, third, fourth, count(*) AS contacts FROM per_contact GROUP BY first, second, third, fourth
)
SELECT w.days, CAST(w.mails AS integer) AS mails, CAST(sum(a.contacts) AS bigint) AS contacts
FROM alike AS a
CROSS JOIN unnest(CAST(:windows AS integer[]), ARRAY[a.first, a.second, a.third, a.fourth]) AS w (days, mails)
WHERE w.mails IS NOT NULL
GROUP BY w.days, w.mails
ORDER BY w.days, w.mails;


-- name: count_contacts_at_limit
-- How many contacts have as many mails as each rule lets through: most has its figures in the order of the counters. Beside
-- them the releases on their way whose places are counted.
SELECT
    ARRAY(
        SELECT r.release_id FROM release AS r
        INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
        WHERE r.takes_places AND r.places_settled_at IS NULL AND j.installation_id = CAST(:installation_id AS integer)
    ) AS releases,
    count(*) AS contacts,
    count(*) FILTER (WHERE mails_1 + places >= (CAST(:most AS integer[]))[1]) AS first,
    count(*) FILTER (WHERE mails_2 + places >= (CAST(:most AS integer[]))[2]) AS second,
    count(*) FILTER (WHERE mails_3 + places >= (CAST(:most AS integer[]))[3]) AS third,
    count(*) FILTER (WHERE mails_4 + places >= (CAST(:most AS integer[]))[4]) AS fourth
FROM frequency_counter
WHERE installation_id = CAST(:installation_id AS integer);

-- name: keep_contacts_at_limit
-- Keep them for as long as these rules hold. Who has the policy's row in hand counts anew himself.
UPDATE frequency_policy SET figures = CAST(:figures AS jsonb)
WHERE installation_id = (
    SELECT p.installation_id FROM frequency_policy AS p
    WHERE p.installation_id = CAST(:installation_id AS integer) AND p.applied_at = CAST(:applied_at AS timestamptz)
    FOR NO KEY UPDATE SKIP LOCKED
);

-- name: read_contacts_at_limit
-- How many contacts were at the limit of each rule when they were counted last.
SELECT figures FROM frequency_policy
WHERE installation_id = CAST(:installation_id AS integer) AND applied_at = CAST(:applied_at AS timestamptz);

-- name: count_other_releases_with_places
-- How many releases on their way have places, besides those that are known.
SELECT count(*)
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.takes_places AND r.places_settled_at IS NULL AND r.release_id <> ALL(CAST(:known AS bigint[]))
    AND j.installation_id = CAST(:installation_id AS integer);

-- name: count_wrong_counters
-- Contacts whose counters are not what the daily log adds up to from the first day of each window on.
SELECT count(*)
FROM (
    SELECT contact_id, mails_1, mails_2, mails_3, mails_4 FROM frequency_counter
    WHERE installation_id = CAST(:installation_id AS integer)
) AS c
FULL JOIN (
    SELECT
        contact_id,
        sum(mails) FILTER (WHERE day >= (CAST(:first_days AS date[]))[1]) AS first,
        sum(mails) FILTER (WHERE day >= (CAST(:first_days AS date[]))[2]) AS second,
        sum(mails) FILTER (WHERE day >= (CAST(:first_days AS date[]))[3]) AS third,
        sum(mails) FILTER (WHERE day >= (CAST(:first_days AS date[]))[4]) AS fourth
    FROM daily_mail_count
    WHERE installation_id = CAST(:installation_id AS integer) AND day >= CAST(:first_of_all AS date)
    GROUP BY contact_id
) AS l USING (contact_id)
WHERE coalesce(c.mails_1, 0) <> coalesce(l.first, 0) OR coalesce(c.mails_2, 0) <> coalesce(l.second, 0)
    OR coalesce(c.mails_3, 0) <> coalesce(l.third, 0) OR coalesce(c.mails_4, 0) <> coalesce(l.fourth, 0);

-- name: find_releases_with_places
-- Releases that may have places in the counters, and whether all of theirs may still come back; closed_up_to: the end of the
-- last day that is closed, null before the first one. Those that were settled before it have none: what they sent is in the daily log.
SELECT r.release_id, r.released_on, r.places_settled_at IS NULL AS is_open, c.closed_up_to
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
CROSS JOIN (
    SELECT CAST(max(day) + 1 AS timestamp) AT TIME ZONE CAST(:time_zone AS text) AS closed_up_to
    FROM closed_day WHERE installation_id = CAST(:installation_id AS integer)
) AS c
WHERE r.takes_places AND j.installation_id = CAST(:installation_id AS integer)
    AND (r.places_settled_at IS NULL OR c.closed_up_to IS NULL OR r.places_settled_at >= c.closed_up_to);

-- name: make_misplaced_contacts
-- Who has wrong places in the counters, and the right ones, within one transaction.
CREATE TEMPORARY TABLE misplaced_contact (contact_id bigint, places integer) ON COMMIT DROP;

-- name: find_wrong_places
-- Contacts whose places in the counters are not what recipients, results and places given back of those releases make of
-- them. Of a release that is open (open_ids) a mail of a closed day may have its place still: its result came later.
-- What arrived before the daily log begins has moved into none.
WITH arrived AS (
    SELECT release_id, contact_id, min(occurred_at) AS first_at FROM result
    WHERE release_id = ANY(CAST(:release_ids AS bigint[])) AND released_on = ANY(CAST(:days AS date[]))
        AND outcome IN ('accepted', 'uncertain')
    GROUP BY release_id, contact_id
    HAVING min(occurred_at) >= (
        SELECT coalesce(i.log_begins_at, '-infinity') FROM installation AS i
        WHERE i.installation_id = CAST(:installation_id AS integer)
    )
),
owned AS (
    SELECT p.contact_id,
        count(*) FILTER (WHERE (a.first_at < CAST(:closed_up_to AS timestamptz)) IS NOT TRUE) AS least,
        count(*) FILTER (
            WHERE (a.first_at < CAST(:closed_up_to AS timestamptz)) IS NOT TRUE
                OR p.release_id = ANY(CAST(:open_ids AS bigint[]))
        ) AS most
    FROM recipient AS p
    LEFT JOIN arrived AS a ON a.release_id = p.release_id AND a.contact_id = p.contact_id
    WHERE p.release_id = ANY(CAST(:release_ids AS bigint[])) AND p.released_on = ANY(CAST(:days AS date[]))
        AND p.bypass_reason IS NULL
        AND NOT EXISTS (
            SELECT FROM bypass AS b
            WHERE b.released_on = ANY(CAST(:days AS date[])) AND b.release_id = p.release_id
                AND b.recipient_no = p.recipient_no AND b.stage IN ('preprocess', 'filter', 'frequency')
        )
        AND NOT EXISTS (
            SELECT FROM place_given_back AS g
            WHERE g.released_on = ANY(CAST(:days AS date[])) AND g.release_id = p.release_id AND g.contact_id = p.contact_id
        )
    GROUP BY p.contact_id
)
INSERT INTO misplaced_contact (contact_id, places)
SELECT contact_id, coalesce(o.least, 0)
FROM (
    SELECT contact_id, places FROM frequency_counter
    WHERE installation_id = CAST(:installation_id AS integer) AND places <> 0
) AS c
FULL JOIN owned AS o USING (contact_id)
WHERE coalesce(c.places, 0) NOT BETWEEN coalesce(o.least, 0) AND coalesce(o.most, 0);

-- name: correct_places
-- Who has wrong places gets the right ones.
INSERT INTO frequency_counter AS known (contact_id, installation_id, places)
SELECT m.contact_id, CAST(:installation_id AS integer), m.places FROM misplaced_contact AS m
ORDER BY m.contact_id
ON CONFLICT (contact_id) DO UPDATE SET places = excluded.places;

-- name: count_held_mails_by_day
-- Mails that began to wait, that went later, and whose wait ended otherwise, by day, from one on; waiting: those that wait
-- still, by the day on which they began to. What expired at once never waited. A gate holds a million at one moment: mails
-- are counted by moments first, of which each is turned into a day once.
SELECT
    e.day,
    CAST(sum(e.waiting + e.held) AS bigint) AS held,
    CAST(sum(e.sent) AS bigint) AS sent,
    CAST(sum(e.ended_unsent) AS bigint) AS ended_unsent,
    CAST(sum(e.waiting) AS bigint) AS waiting
FROM (
    SELECT CAST(held_at AT TIME ZONE :time_zone AS date) AS day, count(*) AS waiting, 0 AS held, 0 AS sent, 0 AS ended_unsent
    FROM held_mail
    WHERE installation_id = CAST(:installation_id AS integer)
    GROUP BY held_at
    UNION ALL
    SELECT CAST(held_at AT TIME ZONE :time_zone AS date), 0, count(*), 0, 0
    FROM held_mail_log
    WHERE installation_id = CAST(:installation_id AS integer) AND day >= CAST(:first_day AS date) - 1
        AND ending <> 'earlier_waits'
    GROUP BY held_at
    UNION ALL
    SELECT
        CAST(ended_at AT TIME ZONE :time_zone AS date), 0, 0,
        count(*) FILTER (WHERE later_release_id IS NOT NULL), count(*) FILTER (WHERE later_release_id IS NULL)
    FROM held_mail_log
    WHERE installation_id = CAST(:installation_id AS integer) AND day >= CAST(:first_day AS date) - 1
        AND ending <> 'earlier_waits'
    GROUP BY ended_at
) AS e
GROUP BY e.day
ORDER BY e.day;
