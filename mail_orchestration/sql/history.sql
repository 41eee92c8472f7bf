-- Statements of dispatch/queue_history.py: what was queued lately (spec 6.6).

-- name: lock_history
-- Two callers with the same mail wait for each other, and others seldom. In order, so that none waits for the other in turn.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.history', b.bucket))
FROM (
    SELECT DISTINCT get_byte(k.mail_key, 0) % 64 AS bucket
    FROM unnest(CAST(:mail_keys AS bytea[])) AS k (mail_key)
    ORDER BY bucket
) AS b;

-- name: ensure_history_day
-- Make the partition of a day.
SELECT ensure_day_partitions(CAST(:day AS date));

-- name: remember_mails
-- Remember the mails that are not in the history, and return their keys.
INSERT INTO queue_history (queued_on, mail_key, queued_at)
SELECT DISTINCT CAST(:day AS date), k.mail_key, CAST(:now AS timestamptz)
FROM unnest(CAST(:mail_keys AS bytea[])) AS k (mail_key)
WHERE NOT EXISTS (
    SELECT FROM queue_history AS h
    WHERE h.mail_key = k.mail_key AND h.queued_on >= CAST(:first_day AS date) AND h.queued_at > CAST(:since AS timestamptz)
)
ON CONFLICT (mail_key, queued_on) DO NOTHING
RETURNING mail_key;
