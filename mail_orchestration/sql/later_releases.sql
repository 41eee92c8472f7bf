-- Statements of dispatch/later_releases.py: held mails that may go, and the releases that send them (spec 8.4).
--
-- They run under the lock of the installation's frequency policy: see kernel/frequency_lock.py.

-- name: are_held_mails_freed
-- Whether the operator freed held mails since the queue was looked through.
SELECT EXISTS (SELECT FROM campaign WHERE installation_id = CAST(:installation_id AS integer) AND held_mails_freed);

-- name: see_freed_held_mails
-- The queue is about to be looked through: what was freed by now is seen.
UPDATE campaign SET held_mails_freed = FALSE WHERE installation_id = CAST(:installation_id AS integer) AND held_mails_freed;

-- name: make_held_candidates
-- Held mails that may go for all that is known of their releases, in the order of each contact's. room is how many mails
-- may be ahead of one; is_taken is null until that is decided.
CREATE TEMPORARY TABLE held_candidate (
    held_mail_id bigint NOT NULL, contact_id bigint NOT NULL, release_id bigint NOT NULL, audience_id integer NOT NULL,
    place integer NOT NULL, room integer NOT NULL, counts boolean NOT NULL, is_taken boolean
) ON COMMIT DROP;

-- name: find_held_candidates
-- While a policy holds (most: its rules in the order of the counters' columns), the mails for which its rules, or those of
-- their own campaign, leave room; but not of a paused campaign, nor before their release was queued or has nobody left to
-- be written to at once, nor while that is stopped. Without a policy all that waits. What has room behind all that is ahead
-- of it is taken from the start. What counts by campaigns' own rules is added up for all their contacts at once.
WITH own_rule AS MATERIALIZED (
    SELECT r.release_id, own.max_mails,
        CAST(:today AS date) - own.days + CAST(CAST(:is_calendar AS boolean) AS integer) AS first_day
    FROM release AS r
    CROSS JOIN jsonb_to_recordset(r.frequency_rules) AS own (max_mails integer, days integer)
    WHERE r.frequency_rules IS NOT NULL AND CAST(:most AS integer[]) IS NOT NULL
        AND EXISTS (
            SELECT FROM held_mail AS h
            WHERE h.release_id = r.release_id AND h.installation_id = CAST(:installation_id AS integer)
        )
),
logged AS (
    SELECT d.contact_id, o.first_day, sum(d.mails) AS mails
    FROM daily_mail_count AS d
    INNER JOIN (SELECT DISTINCT first_day FROM own_rule) AS o ON d.day >= o.first_day
    WHERE d.day >= (SELECT min(u.first_day) FROM own_rule AS u)
        AND d.contact_id IN (
            SELECT h.contact_id FROM held_mail AS h WHERE h.release_id IN (SELECT u.release_id FROM own_rule AS u)
        )
    GROUP BY d.contact_id, o.first_day
),
own_room AS (
    SELECT h.held_mail_id, CAST(min(o.max_mails - coalesce(l.mails, 0)) AS integer) AS room
    FROM held_mail AS h
    INNER JOIN own_rule AS o ON o.release_id = h.release_id
    LEFT JOIN logged AS l ON l.contact_id = h.contact_id AND l.first_day = o.first_day
    GROUP BY h.held_mail_id
)
INSERT INTO held_candidate (held_mail_id, contact_id, release_id, audience_id, place, room, counts, is_taken)
SELECT w.held_mail_id, w.contact_id, w.release_id, w.audience_id, row_number() OVER importance, w.room, w.counts,
    CASE WHEN w.room > count(*) FILTER (WHERE w.counts) OVER importance - CAST(w.counts AS integer) THEN TRUE END
FROM (
    SELECT h.held_mail_id, h.contact_id, h.release_id, h.audience_id, h.priority, h.held_at, r.counts,
        CASE
            WHEN CAST(:most AS integer[]) IS NULL THEN 2147483647
            WHEN r.frequency_rules IS NULL THEN least(
                (CAST(:most AS integer[]))[1] - coalesce(c.mails_1, 0), (CAST(:most AS integer[]))[2] - coalesce(c.mails_2, 0),
                (CAST(:most AS integer[]))[3] - coalesce(c.mails_3, 0), (CAST(:most AS integer[]))[4] - coalesce(c.mails_4, 0)
            ) - coalesce(c.places, 0)
            ELSE own_room.room - coalesce(c.places, 0)
        END AS room
    FROM held_mail AS h
    INNER JOIN release AS r ON r.release_id = h.release_id
    INNER JOIN mail_job AS j ON j.mail_job_id = h.release_id
    INNER JOIN campaign AS k ON k.campaign_id = h.campaign_id
    LEFT JOIN frequency_counter AS c ON c.contact_id = h.contact_id
    LEFT JOIN own_room ON own_room.held_mail_id = h.held_mail_id
    WHERE h.installation_id = CAST(:installation_id AS integer)
        AND (
            CAST(:most AS integer[]) IS NULL
            OR (
                k.state <> 'paused'
                AND j.state NOT IN ('QUEUING', 'INTERRUPTED', 'STOPPING', 'STOPPED_Q', 'STOPPED_R')
                AND (r.starts_at IS NULL OR r.starts_at <= CAST(:now AS timestamptz))
            )
        )
) AS w
WHERE w.room > 0
WINDOW importance AS (
    PARTITION BY w.contact_id ORDER BY w.priority DESC, w.held_at, w.held_mail_id
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
);

-- name: decide_held_candidates
-- Decide what can be decided: a mail is taken when all that counts ahead of it leaves room, even if all of that is taken,
-- and not when what is taken ahead of it leaves none. Each time at least the first one of a contact that is open.
UPDATE held_candidate AS t SET is_taken = d.room > d.most_ahead
FROM (
    SELECT held_mail_id, is_taken, room,
        count(*) FILTER (WHERE counts AND is_taken) OVER ahead AS least_ahead,
        count(*) FILTER (WHERE counts AND is_taken IS NOT FALSE) OVER ahead AS most_ahead
    FROM held_candidate
    WHERE contact_id IN (SELECT u.contact_id FROM held_candidate AS u WHERE u.is_taken IS NULL)
    WINDOW ahead AS (PARTITION BY contact_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) AS d
WHERE t.held_mail_id = d.held_mail_id AND t.is_taken IS NULL AND (d.room > d.most_ahead OR d.room <= d.least_ahead);

-- name: make_later_releases
-- For each release of which held mails are taken a later one that sends them: it says what that one said, to the letter,
-- and is treated as that one was. What the operator stopped waits for its restart as that one does.
WITH chosen AS (
    SELECT t.release_id, nextval(pg_get_serial_sequence('mail_job', 'mail_job_id')) AS later_id
    FROM (SELECT DISTINCT release_id FROM held_candidate WHERE is_taken) AS t
),
mail_jobs AS (
    INSERT INTO mail_job (mail_job_id, release_id, installation_id, state, asked_state, priority, created_at)
    OVERRIDING SYSTEM VALUE
    SELECT chosen.later_id, chosen.later_id AS release_id, j.installation_id, 'QUEUING',
        CASE
            WHEN j.state IN ('STOPPING', 'STOPPED_Q', 'STOPPED_R') OR j.asked_state = 'STOPPED_Q'
                THEN CAST('STOPPED_Q' AS mail_job_state)
        END,
        j.priority, CAST(:now AS timestamptz)
    FROM chosen
    INNER JOIN mail_job AS j ON j.mail_job_id = chosen.release_id
)
INSERT INTO release (
    release_id, campaign_id, released_at, released_on, files, digest, content_digest, occurrence, again, topic, starts_at,
    expires_at, frequency_policy, frequency_rules, shelf_life_days, counts, held_from, audience_ids,
    excluded_audience_ids, resolving_since
)
SELECT chosen.later_id, r.campaign_id, CAST(:now AS timestamptz), CAST(:released_on AS date), r.files, r.digest,
    r.content_digest, r.occurrence, r.again, r.topic, r.starts_at, r.expires_at, r.frequency_policy, r.frequency_rules,
    r.shelf_life_days, r.counts, r.release_id, r.audience_ids,
    r.excluded_audience_ids, CAST(:now AS timestamptz)
FROM chosen
INNER JOIN release AS r ON r.release_id = chosen.release_id
RETURNING release_id, held_from;

-- name: insert_later_recipients
-- The recipients of later releases, in the order of contacts as everywhere. Who was suppressed since is bypassed.
INSERT INTO recipient (released_on, release_id, recipient_no, audience_id, contact_id, bypass_reason)
SELECT CAST(:released_on AS date), later.release_id,
    row_number() OVER (PARTITION BY later.release_id ORDER BY t.contact_id), t.audience_id, t.contact_id,
    coalesce(everything.reason, topic.reason)
FROM held_candidate AS t
INNER JOIN release AS later ON later.held_from = t.release_id AND later.release_id = ANY(CAST(:later_ids AS bigint[]))
LEFT JOIN suppression AS everything ON everything.contact_id = t.contact_id AND everything.topic = ''
LEFT JOIN suppression AS topic ON topic.contact_id = t.contact_id AND topic.topic = nullif(later.topic, '')
WHERE t.is_taken
ORDER BY later.release_id, t.contact_id;

-- name: log_held_mails_sent
-- What was taken leaves the queue for the log.
WITH gone AS (
    DELETE FROM held_mail AS h
    USING held_candidate AS t, release AS later
    WHERE t.is_taken AND h.contact_id = t.contact_id AND h.release_id = t.release_id
        AND later.held_from = t.release_id AND later.release_id = ANY(CAST(:later_ids AS bigint[]))
    RETURNING h.*, later.release_id AS later_release_id
)
INSERT INTO held_mail_log (
    day, held_mail_id, installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at, expires_at,
    max_mails, days, ended_at, ending, later_release_id, ended_by
)
SELECT
    CAST(:day AS date), g.held_mail_id, g.installation_id, g.contact_id, g.campaign_id, g.release_id, g.audience_id,
    g.priority, g.held_at, g.expires_at, g.max_mails, g.days, CAST(:now AS timestamptz),
    CAST(:ending AS held_mail_ending), g.later_release_id, :ended_by
FROM gone AS g;

-- name: finish_later_releases
-- Later releases are resolved and counted, and it is fixed whether their mail jobs are small; without anybody to be written
-- to one is STOPPED. From here on they go like any other.
WITH counted AS (
    SELECT release_id, CAST(count(*) AS integer) AS recipients, CAST(count(bypass_reason) AS integer) AS bypassed
    FROM recipient
    WHERE released_on = CAST(:released_on AS date) AND release_id = ANY(CAST(:later_ids AS bigint[]))
    GROUP BY release_id
),
resolved AS (
    UPDATE release
    SET resolved_at = CAST(:now AS timestamptz), audience_rows = c.recipients, duplicates = 0,
        recipient_count = c.recipients, bypassed_count = c.bypassed
    FROM counted AS c
    WHERE release.release_id = c.release_id
)
UPDATE mail_job
SET kind = CASE
        WHEN c.recipients - c.bypassed < CAST(:threshold AS integer) THEN CAST('small' AS mail_job_kind) ELSE 'parent'
    END,
    state = CASE WHEN c.recipients = c.bypassed THEN CAST('STOPPED' AS mail_job_state) ELSE mail_job.state END,
    reason = CASE WHEN c.recipients = c.bypassed THEN :nobody ELSE '' END,
    ended_at = CASE WHEN c.recipients = c.bypassed THEN CAST(:now AS timestamptz) END
FROM counted AS c, release AS r, campaign AS k
WHERE mail_job.mail_job_id = c.release_id AND mail_job.state = 'QUEUING'
    AND r.release_id = c.release_id AND k.campaign_id = r.campaign_id
RETURNING mail_job.mail_job_id, r.released_on, r.held_from, k.name AS campaign, r.counts, c.recipients - c.bypassed AS mails,
    c.bypassed AS suppressed;
