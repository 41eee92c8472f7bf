-- Statements of audience/: imports, dedup with verify and filter, the handover to composition, suppressions.

-- name: ensure_installation_row
-- The installation of a name, made when it is new.
INSERT INTO installation (name) VALUES (:name) ON CONFLICT (name) DO NOTHING RETURNING installation_id;

-- name: find_installation
-- The installation of a name.
SELECT installation_id FROM installation WHERE name = :name;

-- name: ensure_audience_row
-- The audience of a name, made when it is new.
INSERT INTO audience (installation_id, name) VALUES (CAST(:installation_id AS integer), :name)
ON CONFLICT (installation_id, name) DO NOTHING RETURNING audience_id;

-- name: find_audience
-- The audience of a name.
SELECT audience_id FROM audience WHERE installation_id = CAST(:installation_id AS integer) AND name = :name;

-- name: list_audience_sizes
-- Every audience with its last finished import, and how many members it had after it: only imports change them.
SELECT a.audience_id, a.name, coalesce(i.members, 0) AS members, i.import_id, i.source, i.finished_at
FROM audience AS a
LEFT JOIN LATERAL (
    SELECT import_id, source, finished_at, members FROM audience_import
    WHERE audience_id = a.audience_id AND finished_at IS NOT NULL
    ORDER BY import_id DESC LIMIT 1
) AS i ON TRUE
WHERE a.installation_id = CAST(:installation_id AS integer)
ORDER BY a.name;


-- name: begin_import
-- Note that an import begins; without finished_at it was cut off.
INSERT INTO audience_import (audience_id, source, started_at)
VALUES (CAST(:audience_id AS integer), :source, CAST(:now AS timestamptz))
RETURNING import_id;

-- name: lock_imports
-- One import at a time per installation merges contacts: two would wait for each other's in the middle.
SELECT pg_advisory_xact_lock(hashtextextended('mail_orchestration.import.' || CAST(:installation_id AS integer), 0));

-- name: make_audience_staging
-- Where one chunk of an import lies before it is merged; gone with the transaction.
CREATE TEMPORARY TABLE audience_staging (
    address_key text, address text, body_format text, locale text, guid text, url text, attributes json
) ON COMMIT DROP;

-- name: copy_staging
-- One chunk of an import.
COPY audience_staging (address_key, address, body_format, locale, guid, url, attributes) FROM STDIN;

-- name: empty_staging
-- Room for the next chunk.
TRUNCATE audience_staging;

-- name: merge_contacts
-- Make contacts of the chunk's new addresses, in whose order it lies; a known one keeps the spelling seen first.
INSERT INTO contact (installation_id, address, address_key)
SELECT CAST(:installation_id AS integer), s.address, s.address_key FROM audience_staging AS s
ON CONFLICT (installation_id, address_key) DO NOTHING;

-- name: is_one_known
-- Whether one of these addresses is a contact.
SELECT EXISTS (
    SELECT 1 FROM contact
    WHERE installation_id = CAST(:installation_id AS integer) AND address_key = ANY(CAST(:keys AS text[]))
);

-- name: take_contact_ids
-- Numbers for so many new contacts, in one array: as rows they take longer to fetch than to make.
SELECT array_agg(nextval('contact_contact_id_seq')) FROM generate_series(1, CAST(:count AS integer));

-- name: copy_new_contacts
-- Contacts that must all be new. COPY takes half the time of INSERT … ON CONFLICT, which looks for each one first.
COPY contact (contact_id, address_key, address, installation_id) FROM STDIN;

-- name: copy_new_members
-- Members who were new contacts a moment ago, and so are in no audience yet.
COPY audience_member (contact_id, body_format, locale, guid, url, attributes, audience_id, import_id) FROM STDIN;

-- name: merge_chunk
-- Make contacts of the chunk's new addresses, in their order, as all do who might wait for each other, and make or
-- refresh the memberships of all of it; a row of this very import came first and stays as it is. Each address is looked
-- up once, and only new ones are tried to insert: to let INSERT … ON CONFLICT find the known ones takes half as long
-- again. missed: addresses that another session has made contacts of meanwhile, which this statement cannot see.
WITH looked_up AS MATERIALIZED (
    SELECT s.address_key, s.address, s.body_format, s.locale, s.guid, s.url, s.attributes, c.contact_id
    FROM audience_staging AS s
    LEFT JOIN contact AS c
        ON c.address_key = s.address_key AND c.installation_id = CAST(:installation_id AS integer)
),
made AS (
    INSERT INTO contact (installation_id, address, address_key)
    SELECT CAST(:installation_id AS integer), new.address, new.address_key
    FROM looked_up AS new WHERE new.contact_id IS NULL
    ORDER BY new.address_key COLLATE "C"
    ON CONFLICT (installation_id, address_key) DO NOTHING
    RETURNING contact_id, address_key
),
merged AS (
    INSERT INTO audience_member AS known (
        audience_id, contact_id, body_format, locale, guid, url, attributes, import_id
    )
    SELECT CAST(:audience_id AS integer), coalesce(l.contact_id, made.contact_id) AS contact_id, l.body_format, l.locale,
        l.guid, l.url, l.attributes, CAST(:import_id AS bigint)
    FROM looked_up AS l
    LEFT JOIN made USING (address_key)
    WHERE coalesce(l.contact_id, made.contact_id) IS NOT NULL
    ORDER BY contact_id
    ON CONFLICT (audience_id, contact_id) DO UPDATE
    SET body_format = excluded.body_format, locale = excluded.locale, guid = excluded.guid, url = excluded.url,
        attributes = excluded.attributes, import_id = excluded.import_id
    WHERE known.import_id <> excluded.import_id
    RETURNING 1
)
SELECT (SELECT count(*) FROM merged) AS merged,
    (SELECT count(*) FROM looked_up WHERE contact_id IS NULL) - (SELECT count(*) FROM made) AS missed;

-- name: merge_members
-- Make or refresh the memberships of the chunk, of contacts that are all there by now; see above.
INSERT INTO audience_member AS known (
    audience_id, contact_id, body_format, locale, guid, url, attributes, import_id
)
SELECT CAST(:audience_id AS integer), c.contact_id, s.body_format, s.locale, s.guid, s.url, s.attributes,
    CAST(:import_id AS bigint)
FROM audience_staging AS s
INNER JOIN contact AS c ON c.address_key = s.address_key AND c.installation_id = CAST(:installation_id AS integer)
ORDER BY c.contact_id
ON CONFLICT (audience_id, contact_id) DO UPDATE
SET body_format = excluded.body_format, locale = excluded.locale, guid = excluded.guid, url = excluded.url,
    attributes = excluded.attributes, import_id = excluded.import_id
WHERE known.import_id <> excluded.import_id;

-- name: copy_rejects
-- Rows that are set aside.
COPY audience_reject (import_id, line, value, reason) FROM STDIN;

-- name: remove_unnamed_members
-- In mode replace: whoever the source did not name is no member any more.
DELETE FROM audience_member
WHERE audience_id = CAST(:audience_id AS integer) AND import_id <> CAST(:import_id AS bigint);

-- name: finish_import
-- The import's figures, and how many members the audience has now.
UPDATE audience_import
SET finished_at = greatest(clock_timestamp(), started_at), rows_read = CAST(:rows_read AS bigint),
    rows_accepted = CAST(:rows_accepted AS bigint), rows_repeated = CAST(:rows_repeated AS bigint),
    rows_rejected = CAST(:rows_rejected AS bigint),
    members = (SELECT count(*) FROM audience_member AS m WHERE m.audience_id = audience_import.audience_id)
WHERE import_id = CAST(:import_id AS bigint) AND finished_at IS NULL
RETURNING members;

-- name: find_import
-- An import of an audience that was done: the one of this number, or the latest.
SELECT i.import_id, i.source, i.finished_at, i.rows_rejected
FROM audience_import AS i
INNER JOIN audience AS a USING (audience_id)
WHERE
    a.installation_id = CAST(:installation_id AS integer)
    AND a.name = :name
    AND i.finished_at IS NOT NULL
    AND (CAST(:import_id AS bigint) IS NULL OR i.import_id = CAST(:import_id AS bigint))
ORDER BY i.import_id DESC
LIMIT 1;

-- name: list_rejects
-- The rows of an import that were set aside, in the order of the source.
SELECT line, value, reason FROM audience_reject
WHERE import_id = CAST(:import_id AS bigint)
ORDER BY line
LIMIT CAST(:limit AS bigint);


-- name: try_lock_resolving
-- One session at a time resolves a release; the lock ends with the session, which is how a crash is told from slow work.
SELECT pg_try_advisory_lock(hashtextextended('mail_orchestration.resolve.' || CAST(:release_id AS bigint), 0));

-- name: try_lock_interrupted
-- Nobody resolves the release, and nobody begins to while it is marked.
SELECT pg_try_advisory_xact_lock(hashtextextended('mail_orchestration.resolve.' || CAST(:release_id AS bigint), 0));

-- name: set_sort_memory
-- Room for dedup's sort in this transaction, and no hash of a million contacts, which would take twice as much.
SELECT set_config('work_mem', '48MB', TRUE), set_config('enable_hashagg', 'off', TRUE);

-- name: find_release_to_resolve
-- What dedup needs to know of a release, and the state of its mail job.
SELECT r.released_on, r.topic, r.audience_ids, r.excluded_audience_ids, r.resolved_at, r.is_dry_run, j.state
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.release_id = CAST(:release_id AS bigint);

-- name: begin_resolving
-- Dedup begins: with this set and resolved_at not, a release that nobody holds was cut off.
UPDATE release SET resolving_since = CAST(:now AS timestamptz)
WHERE release_id = CAST(:release_id AS bigint) AND resolved_at IS NULL;

-- name: insert_recipients
-- Dedup, verify and filter. Dedup reads nothing but the index of the memberships, in one narrow sort which serves for
-- the numbers too; of a contact's rows the one in the audience named first counts. The checks are joined after it, those
-- of a membership and those of a contact, of each the first that fails: body formats by their partial index, attributes
-- (a scan of their own) only when the campaign requires some. Returned are the rows before dedup and after; a count of
-- its own would be another scan, of another snapshot.
WITH resolved AS MATERIALIZED (
    SELECT CAST(row_number() OVER (ORDER BY m.contact_id) AS integer) AS recipient_no, m.contact_id, m.audience_rows,
        (CAST(:audience_ids AS integer[]))[m.place] AS audience_id
    FROM (
        SELECT am.contact_id, count(*) AS audience_rows,
            min(array_position(CAST(:audience_ids AS integer[]), am.audience_id)) AS place
        FROM audience_member AS am
        WHERE am.audience_id = ANY(CAST(:audience_ids AS integer[]))
        GROUP BY am.contact_id
    ) AS m
),
stored AS (
    INSERT INTO recipient (released_on, release_id, recipient_no, audience_id, contact_id, bypass_reason)
    SELECT CAST(:released_on AS date), CAST(:release_id AS bigint), r.recipient_no, r.audience_id, r.contact_id,
        coalesce(membership.reason, contact.reason)
    FROM resolved AS r
    LEFT JOIN (
        SELECT DISTINCT ON (found.contact_id, found.audience_id) found.contact_id, found.audience_id, found.reason
        FROM (
            SELECT contact_id, audience_id, 1 AS place, 'bad_body_format' AS reason FROM audience_member
            WHERE audience_id = ANY(CAST(:audience_ids AS integer[]))
                AND body_format NOT IN ('text', 'mime', 'mhtml')
            UNION ALL
            SELECT am.contact_id, am.audience_id, 2, 'missing_attribute:' || lacking.name
            FROM audience_member AS am
            CROSS JOIN LATERAL (
                SELECT needed.name FROM unnest(CAST(:required AS text[])) WITH ORDINALITY AS needed (name, place)
                WHERE coalesce(btrim(CASE needed.name
                    WHEN 'rcp_url' THEN am.url WHEN 'locale' THEN am.locale WHEN 'guid' THEN am.guid
                    ELSE am.attributes ->> needed.name
                END), '') = ''
                ORDER BY needed.place LIMIT 1
            ) AS lacking
            WHERE CAST(:required AS text[]) <> '{}' AND am.audience_id = ANY(CAST(:audience_ids AS integer[]))
        ) AS found
        ORDER BY found.contact_id, found.audience_id, found.place
    ) AS membership ON membership.contact_id = r.contact_id AND membership.audience_id = r.audience_id
    LEFT JOIN (
        SELECT DISTINCT ON (found.contact_id) found.contact_id, found.reason
        FROM (
            SELECT contact_id, 1 AS place, reason FROM suppression WHERE topic = ''
            UNION ALL
            SELECT contact_id, 2, reason FROM suppression WHERE topic = nullif(CAST(:topic AS text), '')
            UNION ALL
            SELECT contact_id, 3, 'excluded_audience' FROM audience_member
            WHERE audience_id = ANY(CAST(:excluded_audience_ids AS integer[]))
        ) AS found
        ORDER BY found.contact_id, found.place
    ) AS contact ON contact.contact_id = r.contact_id
)
SELECT CAST(coalesce(sum(audience_rows), 0) AS bigint) AS audience_rows, count(*) AS recipients FROM resolved;

-- name: count_early_bypasses
-- The recipients of a release whom dedup's own checks have bypassed, by their reason.
SELECT bypass_reason AS reason, count(*) AS recipients FROM recipient
WHERE released_on = CAST(:released_on AS date) AND release_id = CAST(:release_id AS bigint)
    AND bypass_reason IS NOT NULL
GROUP BY bypass_reason;

-- name: count_later_bypasses
-- Recipients bypassed after dedup's own checks, as duplicates, by custom components and by the frequency gate, by their reason.
SELECT reason, count(*) AS recipients FROM bypass
WHERE released_on = CAST(:released_on AS date) AND release_id = CAST(:release_id AS bigint)
    AND stage IN ('preprocess', 'filter', 'frequency')
GROUP BY reason;

-- name: copy_component_bypasses
-- Bypasses that components set.
COPY bypass (released_on, release_id, recipient_no, stage, reason, detail) FROM STDIN;

-- name: finish_resolving
-- The release is resolved and counted.
UPDATE release
SET resolved_at = CAST(:now AS timestamptz), audience_rows = CAST(:audience_rows AS bigint),
    duplicates = CAST(:duplicates AS bigint), recipient_count = CAST(:recipient_count AS integer),
    bypassed_count = CAST(:bypassed_count AS integer)
WHERE release_id = CAST(:release_id AS bigint) AND resolved_at IS NULL;

-- name: fix_kind
-- Whether the mail job is small is fixed at dedup; without recipients it is stopped.
UPDATE mail_job
SET kind = CAST(:kind AS mail_job_kind), state = CAST(:state AS mail_job_state), reason = :reason,
    ended_at = CASE WHEN CAST(:state AS mail_job_state) = 'STOPPED' THEN CAST(:now AS timestamptz) END
WHERE mail_job_id = CAST(:release_id AS bigint) AND state = 'QUEUING';

-- name: find_resolved
-- The figures of a release that is resolved.
SELECT r.audience_rows, r.duplicates, r.recipient_count, j.kind
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.release_id = CAST(:release_id AS bigint) AND r.resolved_at IS NOT NULL;

-- name: find_unresolved_begun
-- Releases whose dedup began and has not ended: it is at work, or it was cut off.
SELECT r.release_id
FROM mail_job AS j
INNER JOIN release AS r ON r.release_id = j.mail_job_id
WHERE j.state = 'QUEUING' AND r.resolving_since IS NOT NULL AND r.resolved_at IS NULL
ORDER BY r.release_id;

-- name: interrupt_mail_job
-- Dedup was cut off: nobody holds the release, and it is still not resolved.
UPDATE mail_job SET state = 'INTERRUPTED', reason = 'dedup was cut off; release it again'
FROM release AS r
WHERE mail_job.mail_job_id = CAST(:release_id AS bigint) AND mail_job.state = 'QUEUING'
    AND r.release_id = mail_job.mail_job_id AND r.resolving_since IS NOT NULL AND r.resolved_at IS NULL;


-- name: find_release_day
-- The partition of a release that is resolved.
SELECT released_on FROM release WHERE release_id = CAST(:release_id AS bigint) AND resolved_at IS NOT NULL;

-- name: read_recipients
-- The next recipients whom nothing has bypassed, with the details of the audience that dedup chose. Without a member
-- row the contact has left that audience since.
SELECT r.recipient_no, r.contact_id, c.address, m.contact_id IS NOT NULL AS is_member,
    m.body_format, m.locale, m.guid, m.url, m.attributes
FROM recipient AS r
INNER JOIN contact AS c ON c.contact_id = r.contact_id
LEFT JOIN audience_member AS m ON m.audience_id = r.audience_id AND m.contact_id = r.contact_id
LEFT JOIN bypass AS b
    ON b.released_on = r.released_on AND b.release_id = r.release_id AND b.recipient_no = r.recipient_no
WHERE r.released_on = CAST(:released_on AS date) AND r.release_id = CAST(:release_id AS bigint)
    AND r.recipient_no > CAST(:after AS integer) AND r.bypass_reason IS NULL AND b.recipient_no IS NULL
ORDER BY r.recipient_no
LIMIT CAST(:batch AS integer);


-- name: insert_suppression
-- Keep a contact from being written to; what was recorded first stays.
INSERT INTO suppression (contact_id, topic, reason, detail, suppressed_at)
VALUES (CAST(:contact_id AS bigint), :topic, :reason, :detail, CAST(:now AS timestamptz))
ON CONFLICT (contact_id, topic) DO NOTHING;

-- name: suppress_staged
-- Suppress everybody in the chunk.
INSERT INTO suppression (contact_id, topic, reason, detail, suppressed_at)
SELECT c.contact_id, :topic, :reason, :detail, CAST(:now AS timestamptz)
FROM audience_staging AS s
INNER JOIN contact AS c ON c.address_key = s.address_key AND c.installation_id = CAST(:installation_id AS integer)
ORDER BY c.contact_id
ON CONFLICT (contact_id, topic) DO NOTHING;
