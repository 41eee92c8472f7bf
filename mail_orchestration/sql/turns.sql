-- Statements of dispatch/turns.py and relay_limits.py: which installations a worker serves, whose turn it is, and what the
-- others let a relay have.

-- name: note_settings
-- What of an installation's settings those must know who work for it elsewhere.
UPDATE installation SET settings = CAST(:settings AS jsonb)
WHERE installation_id = CAST(:installation_id AS integer) AND settings IS DISTINCT FROM CAST(:settings AS jsonb);

-- name: note_relay_limits
-- What an installation's settings let each relay have, and that it was opened. Once an hour is enough to tell the latter.
UPDATE installation SET relay_limits = CAST(:relay_limits AS jsonb), opened_at = clock_timestamp()
WHERE installation_id = CAST(:installation_id AS integer)
    AND (
        relay_limits IS DISTINCT FROM CAST(:relay_limits AS jsonb)
        OR opened_at < clock_timestamp() - interval '1 hour'
    );

-- name: find_relay_limits_of_others
-- What other installations that were opened lately let some relays have.
SELECT i.name AS installation, l.key AS relay, l.value AS limits
FROM installation AS i
CROSS JOIN jsonb_each(i.relay_limits) AS l
WHERE i.name <> :installation AND l.key = ANY(CAST(:relays AS text[]))
    AND i.opened_at > clock_timestamp() - make_interval(days => CAST(:days AS integer))
ORDER BY l.key, i.name;

-- name: find_installations
-- The installations of these names, or (null) all of them.
SELECT installation_id, name, settings
FROM installation
WHERE CAST(:names AS text[]) IS NULL OR name = ANY(CAST(:names AS text[]))
ORDER BY installation_id;

-- name: order_mail_job_turns
-- Those of these installations that have mail jobs which somebody may work on, the one whose last turn is longest ago first.
SELECT served.installation_id
FROM unnest(CAST(:installation_ids AS integer[])) AS served (installation_id)
LEFT JOIN turn ON turn.installation_id = served.installation_id AND turn.work = 'mail_job'
WHERE EXISTS (
    SELECT FROM mail_job
    WHERE mail_job.installation_id = served.installation_id
        AND mail_job.state IN ('QUEUED', 'P_QUEUED', 'P_ASSIGNING', 'RUNNING', 'STOPPING', 'RECOVERING')
)
ORDER BY turn.taken_at NULLS FIRST, served.installation_id;

-- name: order_loose_mail_turns
-- Those of these installations that have loose mails which are due, the one whose last turn is longest ago first.
SELECT served.installation_id
FROM unnest(CAST(:installation_ids AS integer[])) AS served (installation_id)
LEFT JOIN turn ON turn.installation_id = served.installation_id AND turn.work = 'loose_mail'
WHERE EXISTS (SELECT FROM loose_mail AS l WHERE l.installation_id = served.installation_id AND l.state = 'QUEUED')
    OR EXISTS (
        SELECT FROM unnest(enum_range(CAST(NULL AS loose_mail_kind))) AS known (kind)
        WHERE EXISTS (
            SELECT FROM loose_mail AS l
            WHERE l.installation_id = served.installation_id AND l.state = 'SCHEDULED' AND l.kind = known.kind
                AND l.due_at <= CAST(:now AS timestamptz)
        )
    )
    OR EXISTS (
        SELECT FROM loose_mail AS l
        WHERE l.installation_id = served.installation_id AND l.state = 'SENDING'
            AND l.reserved_until <= CAST(:now AS timestamptz)
    )
ORDER BY turn.taken_at NULLS FIRST, served.installation_id;

-- name: note_turn
-- An installation has its turn now.
INSERT INTO turn (installation_id, work, taken_at)
VALUES (CAST(:installation_id AS integer), :work, clock_timestamp())
ON CONFLICT (installation_id, work) DO UPDATE SET taken_at = excluded.taken_at;
