-- Statements of dispatch/turns.py: which installations a worker serves, and whose turn it is.

-- name: note_settings
-- What of an installation's settings those must know who work for it elsewhere.
UPDATE installation SET settings = CAST(:settings AS jsonb)
WHERE installation_id = CAST(:installation_id AS integer) AND settings IS DISTINCT FROM CAST(:settings AS jsonb);

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
