-- Statements of dispatch/held_mail_lists.py: what is shown of the frequency queue, and of what counts for a contact (spec 8.9).

-- name: list_held_mails
-- Mails that wait, most important first, of a campaign, a contact or all, with how many that count are ahead of each for its
-- contact, and from when on others will be, which may not go before. What the operator keeps from going is not ahead, nor
-- what ends at the next look: see end_held_mails.
SELECT h.held_mail_id, h.contact_id, o.address, h.release_id AS mail_job_id, k.name AS campaign, h.priority, h.held_at,
    h.expires_at, h.max_mails, h.days, r.frequency_rules, r.starts_at, k.state AS campaign_state, j.state AS mail_job_state,
    ahead.ahead, ahead.ahead_from
FROM (
    SELECT * FROM held_mail
    WHERE installation_id = CAST(:installation_id AS integer)
        AND (CAST(:campaign_id AS integer) IS NULL OR campaign_id = CAST(:campaign_id AS integer))
        AND (CAST(:contact_id AS bigint) IS NULL OR contact_id = CAST(:contact_id AS bigint))
    ORDER BY priority DESC, held_at, held_mail_id
    LIMIT CAST(:most AS bigint)
) AS h
INNER JOIN contact AS o ON o.contact_id = h.contact_id
INNER JOIN release AS r ON r.release_id = h.release_id
INNER JOIN mail_job AS j ON j.mail_job_id = h.release_id
INNER JOIN campaign AS k ON k.campaign_id = h.campaign_id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE ar.starts_at IS NULL OR ar.starts_at <= CAST(:now AS timestamptz)) AS ahead,
        coalesce(
            array_agg(ar.starts_at ORDER BY ar.starts_at) FILTER (WHERE ar.starts_at > CAST(:now AS timestamptz)), '{}'
        ) AS ahead_from
    FROM held_mail AS a
    INNER JOIN release AS ar ON ar.release_id = a.release_id
    INNER JOIN mail_job AS aj ON aj.mail_job_id = a.release_id
    INNER JOIN campaign AS ak ON ak.campaign_id = a.campaign_id
    WHERE a.contact_id = h.contact_id AND ar.counts AND ak.state NOT IN ('paused', 'deleted')
        AND (ar.expires_at IS NULL OR ar.expires_at > CAST(:now AS timestamptz))
        AND aj.state NOT IN ('STOPPING', 'STOPPED_Q', 'STOPPED_R')
        AND (aj.state <> 'STOPPED' OR ar.bypassed_count = ar.recipient_count)
        AND (aj.state <> 'FAILED' OR aj.queued_at IS NOT NULL)
        AND (-a.priority, a.held_at, a.held_mail_id) < (-h.priority, h.held_at, h.held_mail_id)
) AS ahead
ORDER BY h.priority DESC, h.held_at, h.held_mail_id;

-- name: count_held_mails
-- How many mails wait, by campaign and the rule that held them, most first.
SELECT k.name AS campaign, h.max_mails, h.days, h.mails, h.held_since, h.first_expires_at
FROM (
    SELECT campaign_id, max_mails, days, count(*) AS mails, min(held_at) AS held_since, min(expires_at) AS first_expires_at
    FROM held_mail
    WHERE installation_id = CAST(:installation_id AS integer)
    GROUP BY campaign_id, max_mails, days
) AS h
INNER JOIN campaign AS k ON k.campaign_id = h.campaign_id
ORDER BY h.mails DESC, campaign, h.days, h.max_mails;

-- name: list_past_held_mails
-- How earlier waits of a contact ended, the latest first.
SELECT e.held_mail_id, e.release_id AS mail_job_id, k.name AS campaign, e.priority, e.held_at, e.expires_at, e.max_mails,
    e.days, e.ended_at, e.ending, e.ended_by, e.later_release_id AS later_mail_job_id
FROM held_mail_log AS e
INNER JOIN campaign AS k ON k.campaign_id = e.campaign_id
WHERE e.contact_id = CAST(:contact_id AS bigint)
ORDER BY e.ended_at DESC, e.held_mail_id DESC
LIMIT CAST(:most AS bigint);

-- name: count_ended_held_mails
-- How many waits ended since a moment, by ending.
SELECT ending, count(*) AS mails FROM held_mail_log
WHERE installation_id = CAST(:installation_id AS integer) AND ended_at >= CAST(:since AS timestamptz)
    AND day >= CAST(CAST(:since AS timestamptz) AT TIME ZONE 'UTC' AS date)
GROUP BY ending
ORDER BY ending;

-- name: read_mails_by_day
-- What contacts got on each day from one on, as the daily log has it.
SELECT contact_id, day, mails FROM daily_mail_count
WHERE contact_id = ANY(CAST(:contact_ids AS bigint[])) AND day >= CAST(:first_day AS date)
ORDER BY contact_id, day;

-- name: read_open_places
-- How many places contacts have that the daily log has not counted yet.
SELECT contact_id, places FROM frequency_counter
WHERE contact_id = ANY(CAST(:contact_ids AS bigint[])) AND places > 0;

-- name: find_releases_of_open_places
-- The releases in which anybody may have a place that the daily log has not counted yet (not_before: where its days that are
-- not closed begin). Settled before those days, all that a release sent was accepted before them.
SELECT r.release_id, r.released_on
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.takes_places AND r.recipient_count > 0
    AND (r.places_settled_at IS NULL OR r.places_settled_at >= CAST(:not_before AS timestamptz))
    AND j.installation_id = CAST(:installation_id AS integer);

-- name: find_places_of_contact
-- The mail jobs among these releases in which a contact has such a place. Recipients are in the order of contacts: each release
-- is searched by halves, until so few are left that to read them takes less than to go on (read_whole). The days of the
-- releases stand beside them so that no other day's partitions are planned with.
WITH RECURSIVE search AS (
    SELECT r.release_id, r.released_on, 1 AS low, r.recipient_count AS high FROM release AS r
    WHERE r.release_id = ANY(CAST(:release_ids AS bigint[]))
    UNION ALL
    SELECT s.release_id, s.released_on,
        CASE WHEN m.contact_id < CAST(:contact_id AS bigint) THEN (s.low + s.high) / 2 + 1 ELSE s.low END,
        CASE WHEN m.contact_id < CAST(:contact_id AS bigint) THEN s.high ELSE (s.low + s.high) / 2 END
    FROM search AS s
    INNER JOIN recipient AS m
        ON m.released_on = s.released_on AND m.release_id = s.release_id AND m.recipient_no = (s.low + s.high) / 2
            AND m.released_on = ANY(CAST(:days AS date[]))
    WHERE s.high - s.low >= CAST(:read_whole AS integer)
),
place AS (
    SELECT p.* FROM search AS s
    -- OFFSET 0: each range by the primary key, or the recipients of all days would be read for the few that are the contact's.
    CROSS JOIN LATERAL (
        SELECT m.released_on, m.release_id, m.recipient_no FROM recipient AS m
        WHERE m.released_on = s.released_on AND m.release_id = s.release_id AND m.recipient_no BETWEEN s.low AND s.high
            AND m.released_on = ANY(CAST(:days AS date[]))
            AND m.contact_id = CAST(:contact_id AS bigint) AND m.bypass_reason IS NULL
        OFFSET 0
    ) AS p
    WHERE s.high - s.low < CAST(:read_whole AS integer)
)
SELECT p.release_id AS mail_job_id, k.name AS campaign, r.released_at, j.state, last.outcome, last.occurred_at
FROM place AS p
INNER JOIN release AS r ON r.release_id = p.release_id
INNER JOIN mail_job AS j ON j.mail_job_id = p.release_id
INNER JOIN campaign AS k ON k.campaign_id = r.campaign_id
LEFT JOIN LATERAL (
    SELECT e.outcome, e.occurred_at FROM result AS e
    WHERE e.released_on = p.released_on AND e.release_id = p.release_id AND e.released_on = ANY(CAST(:days AS date[]))
        AND e.contact_id = CAST(:contact_id AS bigint)
        AND e.message_no BETWEEN p.recipient_no - r.bypassed_count AND p.recipient_no
    ORDER BY e.result_no DESC
    LIMIT 1
) AS last ON TRUE
WHERE NOT EXISTS (
        SELECT FROM bypass AS b
        WHERE b.released_on = p.released_on AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
            AND b.released_on = ANY(CAST(:days AS date[]))
    )
    AND NOT EXISTS (
        SELECT FROM place_given_back AS g
        WHERE g.released_on = p.released_on AND g.release_id = p.release_id AND g.contact_id = CAST(:contact_id AS bigint)
            AND g.released_on = ANY(CAST(:days AS date[]))
    )
    AND (last.outcome IS NULL OR last.outcome NOT IN ('accepted', 'uncertain') OR last.occurred_at >= CAST(:not_before AS timestamptz))
ORDER BY r.released_at, p.release_id;
