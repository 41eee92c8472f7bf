-- Statements of dispatch/frozen_campaigns.py and dispatch/single_mails.py: single mails and what they say (spec 7).

-- name: find_single_mail_campaign
-- The campaign of single mails, held against being paused, resumed or deleted until this transaction ends.
SELECT campaign_id, state FROM campaign
WHERE installation_id = CAST(:installation_id AS integer) AND name = :name
FOR SHARE;

-- name: insert_single_mail_campaign
-- A campaign that was never released becomes known by its first single mail.
INSERT INTO campaign (
    installation_id, name, state, resumes_as, digest, changed_at, folder, folder_host, folder_inode
)
VALUES (
    CAST(:installation_id AS integer), :name, :state, :state, CAST(:digest AS bytea), CAST(:now AS timestamptz),
    :folder, :folder_host, CAST(:folder_inode AS numeric)
)
ON CONFLICT (installation_id, name) DO NOTHING;

-- name: find_frozen_campaign
-- What a campaign said under a digest, if it was frozen before.
SELECT frozen_campaign_id FROM frozen_campaign
WHERE campaign_id = CAST(:campaign_id AS integer) AND digest = CAST(:digest AS bytea);

-- name: insert_frozen_campaign
-- Freeze what a campaign says.
INSERT INTO frozen_campaign (campaign_id, digest, files, frozen_at)
VALUES (
    CAST(:campaign_id AS integer), CAST(:digest AS bytea), CAST(:files AS jsonb), CAST(:now AS timestamptz)
)
ON CONFLICT (campaign_id, digest) DO NOTHING;

-- name: read_frozen_campaign
-- What was frozen.
SELECT frozen_campaign_id, campaign_id, files, dictionary FROM frozen_campaign
WHERE frozen_campaign_id = CAST(:frozen_campaign_id AS integer);

-- name: keep_frozen_dictionary
-- The dictionary that the messages of a frozen campaign are compressed against; the first one stays.
UPDATE frozen_campaign SET dictionary = coalesce(dictionary, CAST(:sha256 AS bytea))
WHERE frozen_campaign_id = CAST(:frozen_campaign_id AS integer)
RETURNING dictionary;

-- name: queue_single_mails
-- Single mails of one campaign: QUEUED when they are due, else SCHEDULED, and PAUSED with a paused campaign. Their numbers
-- come in the order of the mails.
INSERT INTO loose_mail (
    installation_id, kind, state, priority, created_at, due_at, expires_at, campaign_id, contact_id, address, topic,
    frozen_campaign_id, attributes, occurrence, history_key, is_transactional
)
SELECT
    CAST(:installation_id AS integer), 'single',
    CASE
        WHEN CAST(:is_paused AS boolean) THEN CAST('PAUSED' AS loose_mail_state)
        WHEN m.due_at <= CAST(:now AS timestamptz) THEN 'QUEUED'
        ELSE 'SCHEDULED'
    END,
    m.priority, CAST(:now AS timestamptz), m.due_at, CAST(:expires_at AS timestamptz), CAST(:campaign_id AS integer),
    m.contact_id, m.address, :topic, CAST(:frozen_campaign_id AS integer), m.attributes, m.occurrence, m.history_key,
    CAST(:is_transactional AS boolean)
FROM unnest(
    CAST(:priorities AS integer[]), CAST(:due_at AS timestamptz[]), CAST(:contact_ids AS bigint[]),
    CAST(:addresses AS text[]), CAST(:attributes AS json[]), CAST(:occurrences AS text[]), CAST(:history_keys AS bytea[])
) WITH ORDINALITY AS m (priority, due_at, contact_id, address, attributes, occurrence, history_key, place)
ORDER BY m.place
RETURNING loose_mail_id, state;

-- name: store_composed_mails
-- Messages that were composed just now, of mails that are still reserved under the fence: from now on they are the same
-- octets at every attempt. Returns the numbers of those that were stored.
UPDATE loose_mail SET message = c.message, size = c.size
FROM unnest(
    CAST(:loose_mail_ids AS bigint[]), CAST(:fences AS bigint[]), CAST(:messages AS bytea[]), CAST(:sizes AS integer[])
) AS c (loose_mail_id, fence, message, size)
WHERE loose_mail.loose_mail_id = c.loose_mail_id AND loose_mail.fence = c.fence AND loose_mail.state = 'SENDING'
    AND loose_mail.message IS NULL
RETURNING loose_mail.loose_mail_id;

-- name: count_single_mail_failures
-- Single mails that failed, by what they were to say and why they could not; the last one's description and reply stand for all.
SELECT c.name AS campaign, l.code, count(*) AS mails, min(l.created_at) AS first_submitted_at,
    max(l.created_at) AS last_submitted_at, count(*) FILTER (WHERE l.message IS NULL) AS not_composed,
    (array_agg(l.description ORDER BY l.loose_mail_id DESC))[1] AS description,
    (array_agg(l.reply_code ORDER BY l.loose_mail_id DESC))[1] AS reply_code,
    (array_agg(l.enhanced_code ORDER BY l.loose_mail_id DESC))[1] AS enhanced_code,
    (array_agg(l.reply_text ORDER BY l.loose_mail_id DESC))[1] AS reply_text
FROM loose_mail AS l
INNER JOIN campaign AS c ON c.campaign_id = l.campaign_id
WHERE l.installation_id = CAST(:installation_id AS integer) AND l.kind = 'single' AND l.state = 'FAILED'
    AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
GROUP BY c.name, l.code
ORDER BY mails DESC, c.name, l.code;

-- name: find_not_composed
-- Single mails that rest and were never composed, with the campaign's folder: they may say what that says now. Those of
-- deleted campaigns go on resting.
SELECT l.loose_mail_id, l.campaign_id, c.name AS campaign, c.folder
FROM loose_mail AS l
INNER JOIN campaign AS c ON c.campaign_id = l.campaign_id
WHERE l.installation_id = CAST(:installation_id AS integer) AND l.kind = 'single' AND l.state IN ('FAILED', 'STOPPED')
    AND l.message IS NULL AND c.state <> 'deleted'
    AND (CAST(:loose_mail_ids AS bigint[]) IS NULL OR l.loose_mail_id = ANY(CAST(:loose_mail_ids AS bigint[])))
    AND (CAST(:campaign_id AS integer) IS NULL OR l.campaign_id = CAST(:campaign_id AS integer))
    AND (CAST(:code AS text) IS NULL OR l.code = CAST(:code AS text))
ORDER BY l.loose_mail_id
FOR NO KEY UPDATE OF l;

-- name: freeze_single_mails_anew
-- Single mails that were never composed say what their campaign says now.
UPDATE loose_mail
SET frozen_campaign_id = CAST(:frozen_campaign_id AS integer), topic = :topic,
    is_transactional = CAST(:is_transactional AS boolean), expires_at = CAST(:expires_at AS timestamptz)
WHERE loose_mail_id = ANY(CAST(:loose_mail_ids AS bigint[])) AND message IS NULL;

-- name: read_single_mail
-- One single mail that has not come to its end, with its message as it is stored.
SELECT l.loose_mail_id, c.name AS campaign, l.state, l.priority, l.address, l.contact_id, l.attributes, l.occurrence,
    l.created_at, l.due_at, l.expires_at, l.attempts, l.last_outcome, l.reply_code, l.enhanced_code, l.reply_text, l.relay,
    l.code, l.description, l.frozen_campaign_id, l.message
FROM loose_mail AS l
INNER JOIN campaign AS c ON c.campaign_id = l.campaign_id
WHERE l.loose_mail_id = CAST(:loose_mail_id AS bigint) AND l.installation_id = CAST(:installation_id AS integer)
    AND l.kind = 'single';

-- name: read_ended_single_mail
-- One single mail that has come to its end, with its message as it is stored: null where there never was one, or where it
-- is past its retention.
SELECT g.loose_mail_id, g.kind, c.name AS campaign, g.address, g.contact_id, g.release_id, g.message_no, g.created_at,
    g.ended_at, g.attempts, g.outcome, g.reply_code, g.enhanced_code, g.reply_text, g.relay, g.code, g.description,
    g.deleted_by, g.size, said.frozen_campaign_id, said.message
FROM delivery_log AS g
INNER JOIN campaign AS c ON c.campaign_id = g.campaign_id
LEFT JOIN loose_mail_message AS said ON said.day = g.day AND said.loose_mail_id = g.loose_mail_id
WHERE g.loose_mail_id = CAST(:loose_mail_id AS bigint) AND g.installation_id = CAST(:installation_id AS integer)
    AND g.kind = 'single';
