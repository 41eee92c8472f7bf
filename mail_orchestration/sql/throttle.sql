-- Statements of dispatch/throttles.py: slots of the limits that all who send share.

-- name: lock_throttles
-- What was taken of some limits, each row locked until the transaction ends, and the moment by the database's clock.
SELECT scope, name, line_origin, line_interval, line_lateness, line_heads, line_short_at, taken, first_used_at,
    back_off_rate, back_off_full_rate, back_off_since, back_off_cut_at, back_off_reason, clock_timestamp() AS now
FROM throttle
WHERE (scope, name) IN (
    SELECT wanted.scope, wanted.name
    FROM unnest(CAST(:scopes AS text []), CAST(:names AS text [])) AS wanted (scope, name)
)
ORDER BY scope, name
FOR UPDATE;

-- name: read_used_throttles
-- What was taken of some limits, and since when they are used; locks nothing.
SELECT t.scope, t.name, t.taken, t.first_used_at
FROM throttle AS t
INNER JOIN unnest(CAST(:scopes AS text []), CAST(:names AS text [])) AS wanted (scope, name)
    ON t.scope = wanted.scope AND t.name = wanted.name;

-- name: add_throttles
-- The rows of limits that nobody has sent under before.
INSERT INTO throttle (scope, name)
SELECT wanted.scope, wanted.name
FROM unnest(CAST(:scopes AS text []), CAST(:names AS text [])) AS wanted (scope, name)
ORDER BY 1, 2
ON CONFLICT (scope, name) DO NOTHING;

-- name: advance_throttles
-- Note what was taken, and tell the moment by the database's clock: nothing is waited for in between.
WITH moved AS (
    UPDATE throttle
    SET line_origin = now_taken.line_origin, line_interval = now_taken.line_interval,
        line_lateness = now_taken.line_lateness, line_heads = CAST(now_taken.line_heads AS bigint []),
        line_short_at = now_taken.line_short_at, taken = CAST(now_taken.taken AS jsonb),
        taken_at = clock_timestamp()
    FROM unnest(
        CAST(:scopes AS text []), CAST(:names AS text []), CAST(:line_origins AS bigint []),
        CAST(:line_intervals AS bigint []), CAST(:line_latenesses AS bigint []), CAST(:line_heads AS text []),
        CAST(:line_short_ats AS bigint []), CAST(:taken AS text [])
    ) AS now_taken (scope, name, line_origin, line_interval, line_lateness, line_heads, line_short_at, taken)
    WHERE throttle.scope = now_taken.scope AND throttle.name = now_taken.name
    RETURNING throttle.scope
)
SELECT count(*) AS moved, clock_timestamp() AS now FROM moved;

-- name: write_back_off
-- A relay or a recipient domain asked for less, under its lock.
UPDATE throttle
SET back_off_rate = CAST(:rate AS double precision), back_off_full_rate = CAST(:full_rate AS double precision),
    back_off_since = CAST(:since AS bigint), back_off_cut_at = CAST(:cut_at AS bigint), back_off_reason = :reason
WHERE scope = :scope AND name = :name;

-- name: list_back_offs
-- What was cut within a time and may still be slower than it was.
SELECT scope, name, back_off_rate, back_off_full_rate, back_off_since, back_off_cut_at, back_off_reason
FROM throttle
WHERE back_off_cut_at >= CAST(:cut_since AS bigint)
ORDER BY scope, name;

-- name: forget_silent_holders
-- A holder that was not heard of for so long has no connection any more.
DELETE FROM relay_connections
WHERE relay = :relay AND renewed_at < clock_timestamp() - make_interval(secs => CAST(:silent_for_s AS double precision));

-- name: list_holders
-- Who shares the connections of a relay.
SELECT holder, wanted, held FROM relay_connections WHERE relay = :relay ORDER BY holder;

-- name: write_holder
-- What a holder wants of a relay's connections, and may have open.
INSERT INTO relay_connections (relay, holder, wanted, held, renewed_at)
VALUES (:relay, :holder, CAST(:wanted AS integer), CAST(:held AS integer), clock_timestamp())
ON CONFLICT (relay, holder) DO UPDATE
SET wanted = excluded.wanted, held = excluded.held, renewed_at = excluded.renewed_at;

-- name: forget_holder
-- A process has no connection open any more, to any relay.
DELETE FROM relay_connections WHERE holder = :holder;

-- name: forget_unused_domains
-- Recipient domains that nobody sent to for so long that nothing counts any more of what was taken or cut. Whoever sends to
-- one of them in this moment holds its row, or makes a new one.
DELETE FROM throttle
WHERE scope = 'domain' AND taken_at < clock_timestamp() - make_interval(days => CAST(:days AS integer))
    AND coalesce(back_off_cut_at, 0)
    < 1000000 * extract(EPOCH FROM clock_timestamp() - make_interval(days => CAST(:days AS integer)));

-- name: list_throttles
-- All relays and recipient domains that have a state, with the connections that are held, and the moment.
SELECT t.scope, t.name, t.line_origin, t.line_interval, t.line_lateness, t.line_heads, t.line_short_at, t.taken,
    t.first_used_at, t.back_off_rate, t.back_off_full_rate, t.back_off_since, t.back_off_cut_at, t.back_off_reason,
    clock_timestamp() AS now,
    coalesce(sharing.held, 0) AS connections, coalesce(sharing.holders, 0) AS holders
FROM throttle AS t
LEFT JOIN LATERAL (
    SELECT sum(c.held) AS held, count(*) AS holders FROM relay_connections AS c
    WHERE t.scope = 'relay' AND c.relay = t.name
        AND c.renewed_at >= clock_timestamp() - make_interval(secs => CAST(:silent_for_s AS double precision))
) AS sharing ON TRUE
WHERE t.taken_at >= CAST(:active_since AS timestamptz) OR t.back_off_cut_at >= CAST(:cut_since AS bigint)
    OR t.scope = 'relay'
ORDER BY t.scope DESC, t.name;
