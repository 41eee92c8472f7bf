-- Statements of dispatch/throttles.py: slots of the limits that all who send share.

-- name: lock_throttles
-- What was taken of some limits, each row locked until the transaction ends, and the moment by the database's clock.
SELECT scope, name, line_origin, line_interval, line_heads, taken, clock_timestamp() AS now
FROM throttle
WHERE (scope, name) IN (
    SELECT wanted.scope, wanted.name
    FROM unnest(CAST(:scopes AS text []), CAST(:names AS text [])) AS wanted (scope, name)
)
ORDER BY scope, name
FOR UPDATE;

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
        line_heads = CAST(now_taken.line_heads AS bigint []), taken = CAST(now_taken.taken AS jsonb),
        taken_at = clock_timestamp()
    FROM unnest(
        CAST(:scopes AS text []), CAST(:names AS text []), CAST(:line_origins AS bigint []),
        CAST(:line_intervals AS bigint []), CAST(:line_heads AS text []), CAST(:taken AS text [])
    ) AS now_taken (scope, name, line_origin, line_interval, line_heads, taken)
    WHERE throttle.scope = now_taken.scope AND throttle.name = now_taken.name
    RETURNING throttle.scope
)
SELECT count(*) AS moved, clock_timestamp() AS now FROM moved;
