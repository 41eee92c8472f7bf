-- Statements of dispatch/holds.py and restore_fence.py: whether anything may be sent, and whether this is the database
-- that it was.

-- name: is_sending_held
-- Whether nothing may be sent for an installation, asked before work is taken and while it is done.
SELECT sending_is_held(CAST(:installation_id AS integer));

-- name: open_holds
-- Why nothing is sent for an installation: the holds that are not lifted.
SELECT cause, reason, held_at, held_by
FROM sending_hold
WHERE lifted_at IS NULL
    AND (installation_id IS NULL OR installation_id = CAST(:installation_id AS integer))
ORDER BY held_at, sending_hold_id;

-- name: place_hold
-- Hold sending, unless it is held for the same cause already.
INSERT INTO sending_hold (installation_id, cause, reason, held_at, held_by)
VALUES (CAST(:installation_id AS integer), :cause, :reason, CAST(:now AS timestamptz), :by)
ON CONFLICT (coalesce(installation_id, 0), cause) WHERE lifted_at IS NULL DO NOTHING
RETURNING sending_hold_id;

-- name: lift_hold
-- Lift the hold of a cause, and note who did.
UPDATE sending_hold
SET lifted_at = CAST(:now AS timestamptz), lifted_by = :by
WHERE lifted_at IS NULL AND cause = :cause
    AND (installation_id IS NULL OR installation_id = CAST(:installation_id AS integer))
RETURNING cause, reason, held_at, held_by;

-- name: count_in_hand
-- How many mail jobs of an installation mailcasters have in hand and beat their hearts for.
SELECT count(*)
FROM mail_job
WHERE state IN ('RUNNING', 'STOPPING') AND installation_id = CAST(:installation_id AS integer)
    AND heartbeat_at >= CAST(:alive_since AS timestamptz);

-- name: lock_identity
-- One process at a time says what this database is.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.database_identity', 0));

-- name: look_at_database
-- Whether this is the database that was known, since when, how far its log is written, and how far if it is on disk.
SELECT database_differs() AS differs, this.system_identifier, this.database_oid, this.log_position, this.kept_position,
    (SELECT max(confirmed_at) FROM database_identity) AS confirmed_at
FROM this_database() AS this;

-- name: forget_identity
-- What this database was no longer counts.
DELETE FROM database_identity;

-- name: write_identity
-- What this database is now, from here on; never earlier than what was known before.
INSERT INTO database_identity (
    system_identifier, timeline, database_oid, table_oids, written_in, confirmed_at, confirmed_by
)
SELECT this.system_identifier, this.timeline, this.database_oid, this.table_oids, pg_current_xact_id(),
    greatest(clock_timestamp(), CAST(:known_at AS timestamptz) + interval '1 microsecond'), :by
FROM this_database() AS this
RETURNING confirmed_at;

-- name: read_unfinished
-- What a restored database still has to do, and the newest sign of work in it.
SELECT count(*) FILTER (WHERE ended_at IS NULL AND parent_id IS NULL) AS unfinished,
    max(greatest(created_at, started_at, heartbeat_at, ended_at)) AS newest_sign_at
FROM mail_job;

-- name: newest_result
-- When the newest result of the last days was recorded.
SELECT max(occurred_at) FROM result WHERE occurred_at >= CAST(:since AS timestamptz);
