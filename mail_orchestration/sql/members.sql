-- Statements of audience/members.py and contacts.py: looking up who is in an audience, and who is a contact.

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

-- name: find_audience_members
-- Contacts' details, each from the first of the named audiences that has them.
SELECT DISTINCT ON (c.contact_id) c.contact_id, c.address, m.body_format, m.locale, m.guid, m.url, m.attributes
FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS named (name, place)
INNER JOIN audience AS a ON a.installation_id = CAST(:installation_id AS integer) AND a.name = named.name
INNER JOIN audience_member AS m ON m.audience_id = a.audience_id AND m.contact_id = ANY(CAST(:contact_ids AS bigint[]))
INNER JOIN contact AS c ON c.installation_id = a.installation_id AND c.contact_id = m.contact_id
ORDER BY c.contact_id, named.place;


-- Contacts -------------------------------------------------------------------------------------------------------

-- name: find_contacts
-- The contacts of these addresses.
SELECT contact_id, address, address_key FROM contact
WHERE installation_id = CAST(:installation_id AS integer) AND address_key = ANY(CAST(:address_keys AS text[]));

-- name: find_contacts_by_number
-- The contacts of these numbers.
SELECT contact_id, address, address_key FROM contact
WHERE installation_id = CAST(:installation_id AS integer) AND contact_id = ANY(CAST(:contact_ids AS bigint[]));

-- name: insert_contacts
-- Make contacts of addresses, without membership, in the order that is given.
INSERT INTO contact (installation_id, address, address_key)
SELECT CAST(:installation_id AS integer), new.address, new.address_key
FROM unnest(CAST(:addresses AS text[]), CAST(:address_keys AS text[])) AS new (address, address_key)
ON CONFLICT (installation_id, address_key) DO NOTHING;

-- name: find_suppressions
-- Who of these contacts must not be written to, and why.
SELECT contact_id, topic, reason FROM suppression WHERE contact_id = ANY(CAST(:contact_ids AS bigint[]));
