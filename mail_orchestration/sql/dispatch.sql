-- Statements of dispatch/mail_jobs.py, message_store.py and shifts.py; those of claims are in claims.sql and held_claims.sql.

-- name: create_mail_job
-- The mail job of a new release, which bears the release's number.
WITH new AS (SELECT nextval(pg_get_serial_sequence('mail_job', 'mail_job_id')) AS mail_job_id)
INSERT INTO mail_job (mail_job_id, release_id, installation_id, state, priority, created_at)
OVERRIDING SYSTEM VALUE
SELECT
    new.mail_job_id, new.mail_job_id AS release_id, CAST(:installation_id AS integer), 'QUEUING',
    CAST(:priority AS integer), CAST(:now AS timestamptz)
FROM new
RETURNING mail_job_id;

-- name: lock_queuing_release
-- What decides how a release enters the queue, its mail job locked.
SELECT mail_job.state, mail_job.kind, release.assembled_at, release.message_count, release.is_dry_run
FROM mail_job
INNER JOIN release ON mail_job.mail_job_id = release.release_id
WHERE mail_job.mail_job_id = CAST(:release_id AS bigint)
FOR NO KEY UPDATE OF mail_job;

-- name: queue_mail_job
-- A mail job whose messages are all assembled becomes ready, or is stopped if that was asked for meanwhile.
UPDATE mail_job
SET state = CASE
        WHEN asked_state = 'STOPPED_Q' THEN CAST('STOPPED_Q' AS mail_job_state)
        WHEN kind = 'small' THEN 'QUEUED'
        ELSE 'P_QUEUED'
    END,
    asked_state = NULL,
    queued_at = CAST(:now AS timestamptz),
    first_message = 1,
    last_message = CAST(:message_count AS integer),
    next_message = CASE kind WHEN 'parent' THEN 1 END,
    canary_messages = (
        SELECT release.canary_messages FROM release
        WHERE release.release_id = mail_job.mail_job_id AND mail_job.kind = 'parent'
            AND release.canary_messages < CAST(:message_count AS integer)
    )
WHERE mail_job_id = CAST(:release_id AS bigint) AND state = 'QUEUING'
RETURNING state;

-- name: change_state
-- Leave one of the named states for another, and say why.
UPDATE mail_job
SET state = CAST(:enters AS mail_job_state),
    reason = :reason,
    ended_at = CASE WHEN CAST(:is_ended AS boolean) THEN CAST(:now AS timestamptz) END
WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state = ANY(CAST(:leaves AS mail_job_state[]))
RETURNING state;

-- name: read_state
-- Which state a mail job is in.
SELECT state FROM mail_job WHERE mail_job_id = CAST(:mail_job_id AS bigint);

-- name: read_mail_job
-- One mail job as people see it: a parent's figures are those of its children.
SELECT mail_job.mail_job_id, mail_job.release_id, mail_job.installation_id, campaign.name AS campaign,
    mail_job.parent_id, mail_job.recovers_id, mail_job.kind, mail_job.state, mail_job.asked_state, mail_job.reason,
    mail_job.priority,
    mail_job.created_at, mail_job.queued_at, mail_job.started_at, mail_job.ended_at,
    mail_job.first_message, mail_job.last_message, mail_job.next_message,
    mail_job.mailcaster, mail_job.heartbeat_at,
    mail_job.accepted + children.accepted AS accepted,
    greatest(mail_job.deferred + children.deferred, 0) AS deferred,
    mail_job.rejected + children.rejected AS rejected,
    greatest(mail_job.uncertain + children.uncertain, 0) AS uncertain,
    mail_job.stopped + children.stopped AS stopped
FROM mail_job
LEFT JOIN release ON mail_job.release_id = release.release_id
LEFT JOIN campaign ON release.campaign_id = campaign.campaign_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(child.accepted), 0) AS accepted, coalesce(sum(child.deferred), 0) AS deferred,
        coalesce(sum(child.rejected), 0) AS rejected, coalesce(sum(child.uncertain), 0) AS uncertain,
        coalesce(sum(child.stopped), 0) AS stopped
    FROM mail_job AS child
    WHERE child.parent_id = mail_job.mail_job_id
) AS children
WHERE mail_job.mail_job_id = CAST(:mail_job_id AS bigint);

-- name: list_mail_jobs
-- The newest mail jobs of an installation that are not children, with the same figures.
SELECT mail_job.mail_job_id, mail_job.release_id, mail_job.installation_id, campaign.name AS campaign,
    mail_job.parent_id, mail_job.recovers_id, mail_job.kind, mail_job.state, mail_job.asked_state, mail_job.reason,
    mail_job.priority,
    mail_job.created_at, mail_job.queued_at, mail_job.started_at, mail_job.ended_at,
    mail_job.first_message, mail_job.last_message, mail_job.next_message,
    mail_job.mailcaster, mail_job.heartbeat_at,
    mail_job.accepted + children.accepted AS accepted,
    greatest(mail_job.deferred + children.deferred, 0) AS deferred,
    mail_job.rejected + children.rejected AS rejected,
    greatest(mail_job.uncertain + children.uncertain, 0) AS uncertain,
    mail_job.stopped + children.stopped AS stopped
FROM mail_job
LEFT JOIN release ON mail_job.release_id = release.release_id
LEFT JOIN campaign ON release.campaign_id = campaign.campaign_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(child.accepted), 0) AS accepted, coalesce(sum(child.deferred), 0) AS deferred,
        coalesce(sum(child.rejected), 0) AS rejected, coalesce(sum(child.uncertain), 0) AS uncertain,
        coalesce(sum(child.stopped), 0) AS stopped
    FROM mail_job AS child
    WHERE child.parent_id = mail_job.mail_job_id
) AS children
WHERE mail_job.installation_id = CAST(:installation_id AS integer) AND mail_job.parent_id IS NULL
    AND (CAST(:states AS mail_job_state[]) IS NULL OR mail_job.state = ANY(CAST(:states AS mail_job_state[])))
ORDER BY mail_job.mail_job_id DESC
LIMIT CAST(:most AS integer);

-- name: list_children
-- The children of a parent, replaced ones too, in the order in which they were made.
SELECT mail_job.mail_job_id, mail_job.release_id, mail_job.installation_id, campaign.name AS campaign,
    mail_job.parent_id, mail_job.recovers_id, mail_job.kind, mail_job.state, mail_job.asked_state, mail_job.reason,
    mail_job.priority,
    mail_job.created_at, mail_job.queued_at, mail_job.started_at, mail_job.ended_at,
    mail_job.first_message, mail_job.last_message, mail_job.next_message,
    mail_job.mailcaster, mail_job.heartbeat_at,
    mail_job.accepted, greatest(mail_job.deferred, 0) AS deferred, mail_job.rejected,
    greatest(mail_job.uncertain, 0) AS uncertain, mail_job.stopped
FROM mail_job
LEFT JOIN release ON mail_job.release_id = release.release_id
LEFT JOIN campaign ON release.campaign_id = campaign.campaign_id
WHERE mail_job.parent_id = CAST(:parent_id AS bigint)
ORDER BY mail_job.mail_job_id;

-- name: find_waiting_work
-- Which classes of work wait, for one installation; locks nothing.
WITH workable AS NOT MATERIALIZED (
    SELECT mail_job.state, mail_job.kind, mail_job.heartbeat_at, mail_job.canary_messages
    FROM mail_job
    WHERE mail_job.installation_id = CAST(:installation_id AS integer)
        AND (
            SELECT campaign.state <> 'paused'
                AND (campaign.state <> 'deleted' OR mail_job.state NOT IN ('QUEUED', 'P_QUEUED'))
            FROM release INNER JOIN campaign ON release.campaign_id = campaign.campaign_id
            WHERE release.release_id = mail_job.release_id
        )
)
SELECT
    EXISTS(SELECT FROM workable WHERE state = 'RECOVERING' AND kind = 'small') AS small_recovering,
    EXISTS(
        SELECT FROM workable WHERE state = 'RUNNING' AND kind = 'small' AND heartbeat_at < CAST(:hung_before AS timestamptz)
    ) AS small_hanging,
    EXISTS(SELECT FROM workable WHERE state = 'QUEUED') AS small_queued,
    EXISTS(SELECT FROM workable WHERE state = 'RECOVERING' AND kind = 'child') AS child_recovering,
    EXISTS(
        SELECT FROM workable WHERE state = 'RUNNING' AND kind = 'child' AND heartbeat_at < CAST(:hung_before AS timestamptz)
    ) AS child_hanging,
    EXISTS(SELECT FROM workable WHERE state = 'P_ASSIGNING' AND canary_messages IS NULL) AS p_assigning,
    EXISTS(SELECT FROM workable WHERE state = 'P_QUEUED') AS p_queued;


-- Assembled messages ---------------------------------------------------------------------------------------------

-- name: count_assembled
-- Assembly got further: messages continue where the last ones ended, in a release that is not yet complete.
UPDATE release
SET message_count = message_count + CAST(:messages AS integer),
    bypassed_count = bypassed_count + CAST(:bypassed AS integer),
    assembled_up_to = greatest(assembled_up_to, CAST(:assembled_up_to AS integer))
WHERE release_id = CAST(:release_id AS bigint) AND assembled_at IS NULL
    AND (CAST(:first_message AS integer) IS NULL OR message_count = CAST(:first_message AS integer) - 1)
RETURNING message_count;

-- name: find_releases_before
-- Releases, of all installations that share the relays, whose messages are being sent or wait to be, but for this one.
SELECT mail_job.release_id
FROM mail_job
INNER JOIN release ON mail_job.release_id = release.release_id
INNER JOIN campaign ON release.campaign_id = campaign.campaign_id
WHERE mail_job.mail_job_id = mail_job.release_id AND mail_job.mail_job_id <> CAST(:release_id AS bigint)
    AND mail_job.state IN ('QUEUED', 'P_QUEUED', 'P_ASSIGNING', 'P_ASSIGNED', 'RUNNING', 'RECOVERED')
    AND campaign.state NOT IN ('paused', 'deleted')
    AND EXISTS (SELECT FROM mail_job AS live WHERE live.release_id = mail_job.release_id AND live.ended_at IS NULL)
ORDER BY mail_job.release_id;

-- name: find_best_rates
-- The most messages per second that each mailcaster has done in a mail job of some size.
SELECT mailcaster,
    max((accepted + deferred + rejected + uncertain) / extract(EPOCH FROM ended_at - started_at)) AS per_second
FROM mail_job
WHERE state = 'FINISHED' AND installation_id = CAST(:installation_id AS integer)
    AND ended_at > CAST(:since AS timestamptz) AND ended_at > started_at
    AND last_message - first_message >= CAST(:least AS integer) - 1
GROUP BY mailcaster;

-- name: count_unsent_by_domain
-- The recipient domains of a release's messages that have no result, by number of messages. A quoted local part may hold
-- an @.
SELECT lower(split_part(message.address, '@', -1)) AS domain, count(*) AS messages
FROM assembled_message AS message
WHERE message.release_id = CAST(:release_id AS bigint)
    AND message.released_on = (SELECT released_on FROM release WHERE release_id = CAST(:release_id AS bigint))
    AND NOT EXISTS (
        SELECT FROM result
        WHERE result.released_on = message.released_on AND result.release_id = message.release_id
            AND result.message_no = message.message_no
    )
GROUP BY 1
ORDER BY messages DESC, domain;

-- name: copy_messages
-- Store assembled messages.
COPY assembled_message (released_on, release_id, message_no, recipient_no, contact_id, size, place_in_block, address)
FROM STDIN WITH (FORMAT 'binary');

-- name: copy_blocks
-- Store what they say.
COPY message_block (released_on, release_id, first_message, block) FROM STDIN WITH (FORMAT 'binary');

-- name: copy_bypasses
-- Store why recipients are skipped.
COPY bypass (released_on, release_id, recipient_no, stage, reason, detail) FROM STDIN WITH (FORMAT 'binary');

-- name: finish_assembly
-- All recipients of a release have a message or a reason.
UPDATE release SET assembled_at = CAST(:now AS timestamptz)
WHERE release_id = CAST(:release_id AS bigint) AND assembled_at IS NULL AND resolved_at IS NOT NULL
    AND message_count + bypassed_count = recipient_count
RETURNING message_count;

-- name: read_assembly
-- How far the assembly of a release is.
SELECT resolved_at, assembled_at, recipient_count, message_count, bypassed_count
FROM release WHERE release_id = CAST(:release_id AS bigint);

-- name: find_message_of_address
-- The message of a release to the contact of an address. Messages are in the order of contacts: they are searched by halves.
WITH RECURSIVE search AS (
    SELECT r.release_id, r.released_on, c.contact_id, 1 AS low, r.message_count AS high
    FROM release AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    INNER JOIN contact AS c ON c.installation_id = j.installation_id AND c.address_key = :address_key
    WHERE r.release_id = CAST(:release_id AS bigint) AND r.message_count > 0
    UNION ALL
    SELECT s.release_id, s.released_on, s.contact_id,
        CASE WHEN m.contact_id < s.contact_id THEN (s.low + s.high) / 2 + 1 ELSE s.low END,
        CASE WHEN m.contact_id < s.contact_id THEN s.high ELSE (s.low + s.high) / 2 END
    FROM search AS s
    INNER JOIN assembled_message AS m
        ON m.released_on = s.released_on AND m.release_id = s.release_id AND m.message_no = (s.low + s.high) / 2
    WHERE s.low < s.high
)
SELECT m.message_no
FROM search AS s
INNER JOIN assembled_message AS m
    ON m.released_on = s.released_on AND m.release_id = s.release_id AND m.message_no = s.low
        AND m.contact_id = s.contact_id
WHERE s.low = s.high;

-- name: read_message
-- One assembled message, by its number, its recipient's number or its address. A recipient's message has the
-- recipient's number less those bypassed before it, which bounds the search. A subquery for its block: joined with, all
-- blocks might be read.
SELECT message.released_on, message.message_no, message.recipient_no, message.contact_id, message.size,
    message.address, message.place_in_block,
    (
        SELECT stored.block FROM message_block AS stored
        WHERE stored.released_on = message.released_on AND stored.release_id = message.release_id
            AND stored.first_message = message.message_no - message.place_in_block
    ) AS block,
    content.bytes AS dictionary
FROM release
INNER JOIN assembled_message AS message
    ON release.release_id = message.release_id
        -- A subquery: joined with, it leaves no partition out.
        AND message.released_on = (SELECT own.released_on FROM release AS own WHERE own.release_id = CAST(:release_id AS bigint))
LEFT JOIN content ON release.dictionary = content.sha256
WHERE release.release_id = CAST(:release_id AS bigint)
    AND (CAST(:message_no AS integer) IS NULL OR message.message_no = CAST(:message_no AS integer))
    AND (
        CAST(:recipient_no AS integer) IS NULL
        OR (
            message.recipient_no = CAST(:recipient_no AS integer)
            AND message.message_no
            BETWEEN CAST(:recipient_no AS integer) - release.bypassed_count AND CAST(:recipient_no AS integer)
        )
    )
    AND (CAST(:address AS text) IS NULL OR lower(message.address) = lower(CAST(:address AS text)))
ORDER BY message.message_no
LIMIT 1;

-- name: read_blocks
-- What the messages of these blocks of a release say.
SELECT first_message, block FROM message_block
WHERE released_on = CAST(:released_on AS date) AND release_id = CAST(:release_id AS bigint)
    AND first_message = ANY(CAST(:first_messages AS integer[]));


-- Shifts ---------------------------------------------------------------------------------------------------------

-- name: read_clock
-- The database's clock, which all hosts share.
SELECT clock_timestamp() AS now;

-- name: start_shift
-- A mailcaster comes to work; its last shift is forgotten.
INSERT INTO mailcaster_shift AS shift (installation_id, mailcaster, host, process_id, started_at, heartbeat_at)
VALUES (
    CAST(:installation_id AS integer), :mailcaster, :host, CAST(:process_id AS integer), CAST(:now AS timestamptz),
    CAST(:now AS timestamptz)
)
ON CONFLICT (installation_id, mailcaster) DO UPDATE
SET host = excluded.host, process_id = excluded.process_id, started_at = excluded.started_at,
    heartbeat_at = excluded.heartbeat_at, ended_at = NULL, mail_job_id = NULL, mail_jobs_done = 0, messages_done = 0;

-- name: note_shift
-- What a mailcaster is at; nothing if another process works under its name by now. Between two mail jobs nobody waits for
-- the disk for that.
WITH hurried AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', TRUE))
UPDATE mailcaster_shift
SET heartbeat_at = CAST(:now AS timestamptz),
    mail_job_id = CAST(:mail_job_id AS bigint),
    mail_jobs_done = CAST(:mail_jobs_done AS integer),
    messages_done = CAST(:messages_done AS bigint),
    ended_at = CASE WHEN CAST(:is_over AS boolean) THEN CAST(:now AS timestamptz) END
FROM hurried
WHERE installation_id = CAST(:installation_id AS integer) AND mailcaster = :mailcaster AND host = :host
    AND process_id = CAST(:process_id AS integer) AND started_at = CAST(:started_at AS timestamptz)
RETURNING mailcaster;

-- name: list_shifts
-- The last shift of each mailcaster.
SELECT mailcaster, host, process_id, started_at, heartbeat_at, ended_at, mail_job_id, mail_jobs_done, messages_done
FROM mailcaster_shift
WHERE installation_id = CAST(:installation_id AS integer)
ORDER BY mailcaster;

-- name: hold_presence
-- A process is at work on something; the lock ends with its session, whatever became of the process.
SELECT pg_advisory_lock(hashtextextended('mail_orchestration.presence.' || CAST(:name AS text), 0));

-- name: try_presence
-- True when nobody is at work on it.
SELECT pg_try_advisory_xact_lock(hashtextextended('mail_orchestration.presence.' || CAST(:name AS text), 0));
