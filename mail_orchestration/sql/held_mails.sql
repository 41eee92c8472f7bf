-- Statements of dispatch/held_mails.py and recovering_held.py: the frequency queue (spec 8.4, 8.9).
--
-- All that changes it runs under the lock of the installation's frequency policy: see kernel/frequency_lock.py.


-- Ends of waiting ------------------------------------------------------------------------------------------------

-- name: end_held_mails
-- Mails whose wait is over without being sent, by how it ended: their time has passed, or nothing of what they were held in
-- is sent any more. A shelf life that ended at shelf_ends_before or later waits for a night that has not come yet, unless
-- the release itself has expired. One of which everybody was held or bypassed is STOPPED as well, and its held mails wait on.
WITH ended AS (
    DELETE FROM held_mail AS h
    USING mail_job AS j, release AS r, campaign AS c
    WHERE h.installation_id = CAST(:installation_id AS integer)
        AND j.mail_job_id = h.release_id AND r.release_id = h.release_id AND c.campaign_id = h.campaign_id
        AND (
            r.expires_at <= CAST(:now AS timestamptz)
            OR (
                h.expires_at <= CAST(:now AS timestamptz)
                AND h.expires_at < coalesce(CAST(:shelf_ends_before AS timestamptz), 'infinity')
            )
            OR c.state = 'deleted'
            OR (j.state = 'STOPPED' AND r.bypassed_count < r.recipient_count)
            OR (j.state = 'FAILED' AND j.queued_at IS NULL)
        )
    RETURNING h.*, CAST(CASE
        WHEN c.state = 'deleted' THEN 'campaign_deleted'
        WHEN h.expires_at <= CAST(:now AS timestamptz) THEN 'expired'
        ELSE 'stopped'
    END AS held_mail_ending) AS ending
),
logged AS (
    INSERT INTO held_mail_log (
        day, held_mail_id, installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at, expires_at,
        max_mails, days, ended_at, ending, ended_by
    )
    SELECT
        CAST(:day AS date), e.held_mail_id, e.installation_id, e.contact_id, e.campaign_id, e.release_id, e.audience_id,
        e.priority, e.held_at, e.expires_at, e.max_mails, e.days, CAST(:now AS timestamptz), e.ending, :ended_by
    FROM ended AS e
    RETURNING ending
)
SELECT ending, count(*) AS mails FROM logged GROUP BY ending;

-- name: find_last_end_of_shelf
-- The last moment before now at which the shelf life of a mail ended that waits still and whose release has not expired.
SELECT max(h.expires_at) FROM held_mail AS h
INNER JOIN release AS r ON r.release_id = h.release_id
WHERE h.installation_id = CAST(:installation_id AS integer) AND h.expires_at <= CAST(:now AS timestamptz)
    AND (r.expires_at IS NULL OR r.expires_at > CAST(:now AS timestamptz));

-- name: delete_held_mails
-- The operator deletes mails that wait: those of these numbers, of a campaign, or (both null) all.
WITH ended AS (
    DELETE FROM held_mail AS h
    WHERE h.installation_id = CAST(:installation_id AS integer)
        AND (CAST(:held_mail_ids AS bigint[]) IS NULL OR h.held_mail_id = ANY(CAST(:held_mail_ids AS bigint[])))
        AND (CAST(:campaign_id AS integer) IS NULL OR h.campaign_id = CAST(:campaign_id AS integer))
    RETURNING h.*
)
INSERT INTO held_mail_log (
    day, held_mail_id, installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at, expires_at,
    max_mails, days, ended_at, ending, ended_by
)
SELECT
    CAST(:day AS date), e.held_mail_id, e.installation_id, e.contact_id, e.campaign_id, e.release_id, e.audience_id,
    e.priority, e.held_at, e.expires_at, e.max_mails, e.days, CAST(:now AS timestamptz),
    CAST(:ending AS held_mail_ending), :ended_by
FROM ended AS e;

-- name: find_not_waiting
-- Which of these numbers are of no mail that waits.
SELECT given.held_mail_id
FROM unnest(CAST(:held_mail_ids AS bigint[])) AS given (held_mail_id)
WHERE NOT EXISTS (
    SELECT FROM held_mail AS h
    WHERE h.held_mail_id = given.held_mail_id AND h.installation_id = CAST(:installation_id AS integer)
)
ORDER BY given.held_mail_id;

-- name: count_held_waiting
-- How many mails wait.
SELECT count(*) FROM held_mail WHERE installation_id = CAST(:installation_id AS integer);


-- Coming back ----------------------------------------------------------------------------------------------------

-- name: lock_dedup_of_held
-- No campaign of which mails may come back is deduplicated meanwhile, in the order of campaigns.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.dedup.' || k.campaign_id, 0))
FROM (
    SELECT DISTINCT e.campaign_id FROM held_mail_log AS e
    LEFT JOIN mail_job AS j ON j.mail_job_id = e.later_release_id
    WHERE e.installation_id = CAST(:installation_id AS integer)
        AND (e.ending = ANY(CAST(:endings AS held_mail_ending[])) OR (j.state IN ('STOPPED', 'FAILED') AND j.queued_at IS NULL))
    ORDER BY e.campaign_id
) AS k;

-- name: recover_held_mails
-- What later releases had that were given up before they were queued, and what ended in a way that is named, waits again
-- and is in the log no more. But not what its contact got since in another release, or waits for there, nor what is too
-- old; of a given-up release that has ended then without being sent. Nor where another occurrence of a repeating campaign
-- waits, or a later one was sent since (spec 8.7): of several that could come back for a contact the latest does.
WITH given_up AS (
    SELECT later.release_id, later.held_from
    FROM release AS later
    INNER JOIN mail_job AS j ON j.mail_job_id = later.release_id
    WHERE later.held_from IS NOT NULL AND j.installation_id = CAST(:installation_id AS integer)
        AND j.state IN ('STOPPED', 'FAILED') AND j.queued_at IS NULL AND later.bypassed_count < later.recipient_count
),
wanted AS (
    SELECT e.*, r.content_digest, r.occurrence, r.expires_at AS release_expires_at,
        coalesce(r.shelf_life_days, CAST(:shelf_life_days AS integer)) AS shelf_life_days,
        row_number() OVER (
            PARTITION BY e.contact_id, e.campaign_id, r.content_digest, r.occurrence ORDER BY e.held_mail_id DESC
        ) AS of_same
    FROM held_mail_log AS e
    INNER JOIN release AS r ON r.release_id = e.release_id
    INNER JOIN campaign AS k ON k.campaign_id = e.campaign_id AND k.state <> 'deleted'
    LEFT JOIN given_up AS g ON g.release_id = e.later_release_id
    WHERE e.installation_id = CAST(:installation_id AS integer)
        AND (g.release_id IS NOT NULL OR e.ending = ANY(CAST(:endings AS held_mail_ending[])))
),
kinds AS (
    SELECT DISTINCT campaign_id, content_digest, occurrence FROM wanted
),
reached AS (
    SELECT s.campaign_id, s.content_digest, s.occurrence, p.contact_id
    FROM kinds AS s
    INNER JOIN release AS o
        ON o.campaign_id = s.campaign_id AND o.content_digest = s.content_digest AND o.occurrence = s.occurrence
            AND o.resolved_at IS NOT NULL AND NOT o.is_dry_run
    INNER JOIN mail_job AS j
        ON j.mail_job_id = o.release_id AND (j.state NOT IN ('STOPPED', 'FAILED') OR j.queued_at IS NOT NULL)
    INNER JOIN recipient AS p
        ON p.released_on = o.released_on AND p.release_id = o.release_id AND p.bypass_reason IS NULL
    LEFT JOIN bypass AS b
        ON b.released_on = p.released_on AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
    WHERE b.recipient_no IS NULL
    UNION
    SELECT s.campaign_id, s.content_digest, s.occurrence, h.contact_id
    FROM kinds AS s
    INNER JOIN release AS o
        ON o.campaign_id = s.campaign_id AND o.content_digest = s.content_digest AND o.occurrence = s.occurrence
    INNER JOIN held_mail AS h ON h.release_id = o.release_id
),
repeating AS (
    SELECT campaign_id, min(release_id) AS first_release_id FROM wanted WHERE occurrence <> '' GROUP BY campaign_id
),
repeated AS (
    SELECT p.contact_id, o.campaign_id, o.occurrence, max(coalesce(o.held_from, o.release_id)) AS release_id
    FROM repeating AS s
    INNER JOIN release AS o
        ON o.campaign_id = s.campaign_id AND o.occurrence <> '' AND coalesce(o.held_from, o.release_id) > s.first_release_id
            AND o.resolved_at IS NOT NULL AND NOT o.is_dry_run
    INNER JOIN mail_job AS j
        ON j.mail_job_id = o.release_id AND (j.state NOT IN ('STOPPED', 'FAILED') OR j.queued_at IS NOT NULL)
    INNER JOIN recipient AS p
        ON p.released_on = o.released_on AND p.release_id = o.release_id AND p.bypass_reason IS NULL
            AND p.contact_id IN (SELECT w.contact_id FROM wanted AS w)
    LEFT JOIN bypass AS b
        ON b.released_on = p.released_on AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
    WHERE b.recipient_no IS NULL
    GROUP BY p.contact_id, o.campaign_id, o.occurrence
    UNION ALL
    SELECT h.contact_id, h.campaign_id, o.occurrence, CAST(9223372036854775807 AS bigint)
    FROM repeating AS s
    INNER JOIN release AS o ON o.campaign_id = s.campaign_id AND o.occurrence <> ''
    INNER JOIN held_mail AS h ON h.release_id = o.release_id
),
overtaken AS (
    SELECT DISTINCT w.held_mail_id
    FROM wanted AS w
    INNER JOIN repeated AS later
        ON later.contact_id = w.contact_id AND later.campaign_id = w.campaign_id AND later.occurrence <> w.occurrence
            AND later.release_id > w.release_id
    WHERE w.occurrence <> ''
),
judged_alone AS (
    SELECT w.day, w.held_mail_id, w.later_release_id, w.shelf_life_days, w.release_expires_at, w.release_id, w.contact_id,
        w.campaign_id, w.occurrence,
        CASE
            WHEN w.release_expires_at <= CAST(:now AS timestamptz) THEN 'too late'
            WHEN w.of_same > 1 OR reached.contact_id IS NOT NULL THEN 'sent since'
            WHEN overtaken.held_mail_id IS NOT NULL THEN 'overtaken'
            ELSE 'comes back'
        END AS verdict
    FROM wanted AS w
    LEFT JOIN reached
        ON reached.contact_id = w.contact_id AND reached.campaign_id = w.campaign_id
            AND reached.content_digest = w.content_digest AND reached.occurrence = w.occurrence
    LEFT JOIN overtaken ON overtaken.held_mail_id = w.held_mail_id
),
judged AS (
    SELECT a.day, a.held_mail_id, a.later_release_id, a.shelf_life_days, a.release_expires_at,
        CASE
            WHEN a.verdict = 'comes back' AND a.occurrence <> first_value(a.occurrence) OVER (
                PARTITION BY a.contact_id, a.campaign_id, a.verdict, a.occurrence = '' ORDER BY a.release_id DESC
            ) THEN 'overtaken'
            ELSE a.verdict
        END AS verdict
    FROM judged_alone AS a
),
gone AS (
    DELETE FROM held_mail_log AS e
    USING judged AS v
    WHERE v.verdict = 'comes back' AND e.day = v.day AND e.held_mail_id = v.held_mail_id
    RETURNING e.*, least(
        v.release_expires_at,
        CAST(CAST(:today AS date) + v.shelf_life_days + 1 AS timestamp) AT TIME ZONE CAST(:time_zone AS text)
    ) AS new_expires_at
),
back AS (
    INSERT INTO held_mail (
        held_mail_id, installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at, expires_at,
        max_mails, days
    )
    OVERRIDING SYSTEM VALUE
    SELECT g.held_mail_id, g.installation_id, g.contact_id, g.campaign_id, g.release_id, g.audience_id, g.priority, g.held_at,
        g.new_expires_at, g.max_mails, g.days
    FROM gone AS g
),
ended AS (
    UPDATE held_mail_log AS e
    SET ending = CASE v.verdict WHEN 'too late' THEN CAST('expired' AS held_mail_ending) ELSE 'deleted' END,
        later_release_id = NULL, ended_by = :ended_by
    FROM judged AS v
    WHERE v.verdict <> 'comes back' AND v.later_release_id IS NOT NULL AND e.day = v.day AND e.held_mail_id = v.held_mail_id
)
SELECT
    count(*) FILTER (WHERE verdict = 'comes back') AS mails,
    count(*) FILTER (WHERE verdict = 'sent since') AS sent_since,
    count(*) FILTER (WHERE verdict = 'overtaken') AS overtaken,
    count(*) FILTER (WHERE verdict = 'too late') AS too_late
FROM judged;
