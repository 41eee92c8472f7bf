-- Statements of audience/members.py: looking up who is in an audience.

-- name: find_audience_ids
-- The audiences of these names that were ever filled: one whose first import failed has a name and nobody in it.
SELECT name, audience_id FROM audience
WHERE
    installation_id = CAST(:installation_id AS integer)
    AND name = ANY(CAST(:names AS text[]))
    AND EXISTS (
        SELECT FROM audience_import
        WHERE audience_import.audience_id = audience.audience_id AND audience_import.finished_at IS NOT NULL
    );

-- name: find_audience_member
-- One contact's details, from the first of the named audiences that has it.
SELECT c.contact_id, c.address, m.body_format, m.locale, m.guid, m.url, m.attributes
FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS named (name, place)
INNER JOIN audience AS a ON a.installation_id = CAST(:installation_id AS integer) AND a.name = named.name
INNER JOIN contact AS c ON c.installation_id = a.installation_id AND c.address_key = :address_key
INNER JOIN audience_member AS m ON m.audience_id = a.audience_id AND m.contact_id = c.contact_id
ORDER BY named.place
LIMIT 1;
