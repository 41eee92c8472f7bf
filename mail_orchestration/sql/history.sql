-- Statements of dispatch/queue_history.py, dispatch/repeats_at_rest.py and audience/duplicates.py: what was queued lately
-- (spec 6.6).

-- name: lock_history
-- Two callers with the same mail wait for each other, and others seldom. In order, so that none waits for the other in turn.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.history', b.bucket))
FROM (
    SELECT DISTINCT get_byte(k.mail_key, 0) % 64 AS bucket
    FROM unnest(CAST(:mail_keys AS bytea[])) AS k (mail_key)
    ORDER BY bucket
) AS b;

-- name: remember_mails
-- Remember the mails that are not in the history and of which none waits, however old, and return their keys.
INSERT INTO queue_history (queued_on, mail_key, queued_at)
SELECT DISTINCT CAST(:day AS date), k.mail_key, CAST(:now AS timestamptz)
FROM unnest(CAST(:mail_keys AS bytea[])) AS k (mail_key)
WHERE NOT EXISTS (
    SELECT FROM queue_history AS h
    WHERE h.mail_key = k.mail_key AND h.queued_on >= CAST(:first_day AS date) AND h.queued_at > CAST(:since AS timestamptz)
)
AND NOT EXISTS (
    SELECT FROM loose_mail AS l
    WHERE l.history_key = k.mail_key AND l.state IN ('SCHEDULED', 'QUEUED', 'SENDING', 'PAUSED')
)
ON CONFLICT (mail_key, queued_on) DO NOTHING
RETURNING mail_key;

-- name: find_remembered_mails
-- When mails that are in the history, or wait, were queued.
SELECT known.mail_key, max(known.queued_at) AS queued_at
FROM (
    SELECT h.mail_key, h.queued_at FROM queue_history AS h
    WHERE h.mail_key = ANY(CAST(:mail_keys AS bytea[])) AND h.queued_on >= CAST(:first_day AS date)
        AND h.queued_at > CAST(:since AS timestamptz)
    UNION ALL
    SELECT l.history_key, coalesce(l.remembered_at, l.created_at) FROM loose_mail AS l
    WHERE l.history_key = ANY(CAST(:mail_keys AS bytea[])) AND l.state IN ('SCHEDULED', 'QUEUED', 'SENDING', 'PAUSED')
) AS known
GROUP BY known.mail_key;

-- name: find_remembered_at_rest
-- Single mails that rest, what the history knows each by, and when it took it up.
SELECT l.loose_mail_id, l.history_key, coalesce(l.remembered_at, l.created_at) AS remembered_at
FROM loose_mail AS l
WHERE l.installation_id = CAST(:installation_id AS integer) AND l.state IN ('FAILED', 'STOPPED')
    AND l.history_key IS NOT NULL
    AND (CAST(:loose_mail_ids AS bigint[]) IS NULL OR l.loose_mail_id = ANY(CAST(:loose_mail_ids AS bigint[])))
    AND (CAST(:kind AS loose_mail_kind) IS NULL OR l.kind = CAST(:kind AS loose_mail_kind))
    AND (CAST(:code AS text) IS NULL OR l.code = CAST(:code AS text))
    AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer));

-- name: find_repeats_at_rest
-- Of single mails that rest those whose content another one was queued with since, which is in the history or waits, or
-- rests as well and came later; and when it was.
SELECT r.loose_mail_id, max(another.queued_at) AS queued_at
FROM (
    SELECT
        l.loose_mail_id, l.history_key, l.remembered_at,
        max(l.remembered_at) OVER (
            PARTITION BY l.history_key ORDER BY l.loose_mail_id ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        ) AS later_one_at
    FROM unnest(
        CAST(:loose_mail_ids AS bigint[]), CAST(:history_keys AS bytea[]), CAST(:moments AS timestamptz[])
    ) AS l (loose_mail_id, history_key, remembered_at)
) AS r
CROSS JOIN LATERAL (
    SELECT r.later_one_at AS queued_at WHERE r.later_one_at IS NOT NULL
    UNION ALL
    SELECT h.queued_at FROM queue_history AS h
    WHERE h.mail_key = r.history_key AND h.queued_on >= CAST(:first_day AS date)
        AND h.queued_at > CAST(:since AS timestamptz) AND h.queued_at > r.remembered_at
    UNION ALL
    SELECT coalesce(w.remembered_at, w.created_at) FROM loose_mail AS w
    WHERE w.history_key = r.history_key AND w.state IN ('SCHEDULED', 'QUEUED', 'SENDING', 'PAUSED')
) AS another
GROUP BY r.loose_mail_id
ORDER BY r.loose_mail_id;

-- name: lock_dedup_of_dead_letters
-- No campaign of which messages of releases may be resubmitted is deduplicated meanwhile, in the order of campaigns.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.dedup.' || k.campaign_id, 0))
FROM (
    SELECT DISTINCT l.campaign_id FROM loose_mail AS l
    WHERE l.installation_id = CAST(:installation_id AS integer) AND l.state IN ('FAILED', 'STOPPED') AND l.kind = 'retry'
        AND (CAST(:loose_mail_ids AS bigint[]) IS NULL OR l.loose_mail_id = ANY(CAST(:loose_mail_ids AS bigint[])))
        AND (CAST(:kind AS loose_mail_kind) IS NULL OR l.kind = CAST(:kind AS loose_mail_kind))
        AND (CAST(:code AS text) IS NULL OR l.code = CAST(:code AS text))
        AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
    ORDER BY l.campaign_id
) AS k;

-- name: find_later_of_same_content
-- The releases of messages that rest, each with a later one of the same content for the same occurrence; and whether that
-- may have reached somebody within the history, or may still, by itself and not by what of it is held. What is tested is
-- sent as often as is asked.
SELECT this.release_id, later.release_id AS later_id, later.released_on,
    EXISTS (
        SELECT FROM mail_job AS j
        WHERE j.release_id = later.release_id
            AND (j.ended_at IS NULL OR (j.state <> 'STOPPED' AND j.queued_at > CAST(:since AS timestamptz)))
    ) AS may_reach
FROM release AS this
INNER JOIN release AS later
    ON later.campaign_id = this.campaign_id AND later.release_id > this.release_id
        AND later.content_digest = this.content_digest AND later.occurrence = this.occurrence
INNER JOIN campaign AS k ON k.campaign_id = this.campaign_id AND k.state <> 'test'
WHERE later.resolved_at IS NOT NULL AND NOT later.is_dry_run
    AND this.release_id IN (
        SELECT l.release_id FROM loose_mail AS l
        WHERE l.installation_id = CAST(:installation_id AS integer) AND l.state IN ('FAILED', 'STOPPED') AND l.kind = 'retry'
            AND (CAST(:loose_mail_ids AS bigint[]) IS NULL OR l.loose_mail_id = ANY(CAST(:loose_mail_ids AS bigint[])))
            AND (CAST(:kind AS loose_mail_kind) IS NULL OR l.kind = CAST(:kind AS loose_mail_kind))
            AND (CAST(:code AS text) IS NULL OR l.code = CAST(:code AS text))
            AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
    );

-- name: find_repeats_of_releases
-- Of messages of releases that rest those that a later release has for the same contact, unless its message ended there
-- without arriving; and when that one was queued, or released where it is not yet. days: of the later ones.
WITH resting AS (
    SELECT l.loose_mail_id, l.contact_id, s.later_id, s.may_reach, later.released_on, later.bypassed_count,
        coalesce(j.queued_at, later.released_at) AS queued_at
    FROM loose_mail AS l
    INNER JOIN unnest(
        CAST(:release_ids AS bigint[]), CAST(:later_ids AS bigint[]), CAST(:may_reach AS boolean[])
    ) AS s (release_id, later_id, may_reach) ON s.release_id = l.release_id
    INNER JOIN release AS later ON later.release_id = s.later_id
    INNER JOIN mail_job AS j ON j.mail_job_id = s.later_id
    WHERE l.installation_id = CAST(:installation_id AS integer) AND l.state IN ('FAILED', 'STOPPED') AND l.kind = 'retry'
        AND (CAST(:loose_mail_ids AS bigint[]) IS NULL OR l.loose_mail_id = ANY(CAST(:loose_mail_ids AS bigint[])))
        AND (CAST(:kind AS loose_mail_kind) IS NULL OR l.kind = CAST(:kind AS loose_mail_kind))
        AND (CAST(:code AS text) IS NULL OR l.code = CAST(:code AS text))
        AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
)
SELECT same.loose_mail_id, max(same.queued_at) AS queued_at
FROM (
    SELECT r.loose_mail_id, r.queued_at
    FROM resting AS r
    INNER JOIN recipient AS p
        ON p.released_on = r.released_on AND p.released_on = ANY(CAST(:days AS date[])) AND p.release_id = r.later_id
            AND p.release_id = ANY(CAST(:later_ids AS bigint[])) AND p.contact_id = r.contact_id AND p.bypass_reason IS NULL
    LEFT JOIN LATERAL (
        SELECT e.outcome FROM result AS e
        WHERE e.released_on = p.released_on AND e.released_on = ANY(CAST(:days AS date[])) AND e.release_id = p.release_id
            AND e.contact_id = p.contact_id AND e.message_no BETWEEN p.recipient_no - r.bypassed_count AND p.recipient_no
        ORDER BY e.result_no DESC
        LIMIT 1
    ) AS last ON TRUE
    WHERE r.may_reach AND (last.outcome IS NULL OR last.outcome NOT IN ('rejected', 'stopped', 'expired'))
        AND NOT EXISTS (
            SELECT FROM bypass AS b
            WHERE b.released_on = p.released_on AND b.released_on = ANY(CAST(:days AS date[]))
                AND b.release_id = p.release_id AND b.recipient_no = p.recipient_no
        )
    UNION ALL
    SELECT r.loose_mail_id, r.queued_at
    FROM resting AS r
    INNER JOIN held_mail AS h ON h.release_id = r.later_id AND h.contact_id = r.contact_id
    WHERE h.expires_at > CAST(:now AS timestamptz)
) AS same
GROUP BY same.loose_mail_id
ORDER BY same.loose_mail_id;


-- name: lock_dedup_of_campaign
-- Of two releases of a campaign that are resolved at once the second sees whom the first took.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.dedup.' || campaign_id, 0))
FROM release WHERE release_id = CAST(:release_id AS bigint);

-- name: insert_duplicates_of_held
-- Bypass the recipients for whom the same content of the same occurrence waits in the frequency queue; the releases that
-- it was held in.
WITH waiting AS (
    SELECT p.recipient_no, p.released_on, p.release_id, max(h.release_id) AS held_in
    FROM release AS this
    INNER JOIN release AS earlier
        ON this.campaign_id = earlier.campaign_id AND this.content_digest = earlier.content_digest
            AND this.occurrence = earlier.occurrence
    INNER JOIN held_mail AS h ON h.release_id = earlier.release_id AND h.expires_at > CAST(:now AS timestamptz)
    INNER JOIN recipient AS p
        ON p.released_on = this.released_on AND p.release_id = this.release_id AND p.contact_id = h.contact_id
            AND p.bypass_reason IS NULL
    WHERE this.release_id = CAST(:release_id AS bigint)
    GROUP BY p.recipient_no, p.released_on, p.release_id
),
stored AS (
    INSERT INTO bypass (released_on, release_id, recipient_no, stage, reason, detail)
    SELECT w.released_on, w.release_id, w.recipient_no, 'filter', 'duplicate', 'held in mail job ' || w.held_in
    FROM waiting AS w
)
SELECT DISTINCT held_in FROM waiting;

-- name: find_earlier_releases
-- Resolved releases of the same content for the same occurrence: those that have not ended, and those that were queued
-- within the history. One that was STOPPED while it waited, or failed before it was queued, sent nothing and never will.
SELECT earlier.release_id, earlier.released_on
FROM release AS this
INNER JOIN release AS earlier
    ON this.campaign_id = earlier.campaign_id AND this.release_id <> earlier.release_id
        AND this.content_digest = earlier.content_digest AND this.occurrence = earlier.occurrence
WHERE this.release_id = CAST(:release_id AS bigint) AND earlier.resolved_at IS NOT NULL AND NOT earlier.is_dry_run
    AND EXISTS (
        SELECT FROM mail_job AS j
        WHERE j.release_id = earlier.release_id
            AND (j.ended_at IS NULL OR (j.state <> 'STOPPED' AND j.queued_at > CAST(:since AS timestamptz)))
    )
ORDER BY earlier.release_id;

-- name: insert_duplicates
-- Bypass the recipients whom one of the earlier releases was to reach, but not those whose message has ended there without
-- arriving. One without a result waits for its turn, or for a restart.
INSERT INTO bypass (released_on, release_id, recipient_no, stage, reason, detail)
SELECT this.released_on, this.release_id, this.recipient_no, 'filter', 'duplicate', 'mail job ' || max(earlier.release_id)
FROM recipient AS this
INNER JOIN recipient AS earlier
    ON this.contact_id = earlier.contact_id AND earlier.bypass_reason IS NULL
        AND earlier.released_on = ANY(CAST(:days AS date[])) AND earlier.release_id = ANY(CAST(:release_ids AS bigint[]))
WHERE this.released_on = CAST(:released_on AS date) AND this.release_id = CAST(:release_id AS bigint)
    AND this.bypass_reason IS NULL
    AND NOT EXISTS (
        SELECT FROM bypass AS b
        WHERE b.released_on = earlier.released_on AND b.release_id = earlier.release_id
            AND b.recipient_no = earlier.recipient_no
    )
    AND NOT EXISTS (
        SELECT FROM bypass AS b
        WHERE b.released_on = this.released_on AND b.release_id = this.release_id AND b.recipient_no = this.recipient_no
    )
    AND NOT EXISTS (
        SELECT FROM result AS r
        WHERE r.released_on = earlier.released_on AND r.release_id = earlier.release_id
            AND r.contact_id = earlier.contact_id AND r.outcome IN ('rejected', 'stopped', 'expired')
            AND NOT EXISTS (
                SELECT FROM result AS later
                WHERE later.released_on = r.released_on AND later.release_id = r.release_id
                    AND later.message_no = r.message_no AND later.result_no > r.result_no
            )
    )
GROUP BY this.released_on, this.release_id, this.recipient_no;
