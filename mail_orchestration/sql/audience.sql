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
-- Every audience with its number of members and its last finished import.
SELECT a.audience_id, a.name, coalesce(m.members, 0) AS members, i.import_id, i.source, i.finished_at
FROM audience AS a
LEFT JOIN (SELECT audience_id, count(*) AS members FROM audience_member GROUP BY audience_id) AS m USING (audience_id)
LEFT JOIN LATERAL (
    SELECT import_id, source, finished_at FROM audience_import
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
    address_key text, address text, body_format text, locale text, guid text, url text, attributes jsonb
) ON COMMIT DROP;

-- name: copy_staging
-- One chunk of an import.
COPY audience_staging FROM STDIN;

-- name: empty_staging
-- Room for the next chunk.
TRUNCATE audience_staging;

-- name: merge_contacts
-- Make contacts of the chunk's new addresses; a known one keeps the spelling that was seen first.
INSERT INTO contact (installation_id, address, address_key)
SELECT CAST(:installation_id AS integer), s.address, s.address_key FROM audience_staging AS s
ORDER BY s.address_key
ON CONFLICT (installation_id, address_key) DO NOTHING;

-- name: merge_members
-- Make or refresh the memberships of the chunk; a row of this very import came first and stays as it is.
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
    rows_rejected = CAST(:rows_rejected AS bigint)
WHERE import_id = CAST(:import_id AS bigint) AND finished_at IS NULL
RETURNING (SELECT count(*) FROM audience_member AS m WHERE m.audience_id = audience_import.audience_id) AS members;

-- name: analyze_members
-- The planner knows the new sizes at once: a release may follow within the second.
ANALYZE contact, audience_member;

-- name: list_rejects
-- The rows of an import that were set aside, in the order of the source.
SELECT line, value, reason FROM audience_reject
WHERE import_id = CAST(:import_id AS bigint)
ORDER BY line
LIMIT CAST(:limit AS bigint);
