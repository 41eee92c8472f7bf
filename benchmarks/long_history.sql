-- Statements of benchmarks/long_history.py: many days of mail jobs, written set by set into an empty database.

-- name: make_counting
-- How many numbers from one to another leave this rest.
CREATE FUNCTION pg_temp.counted(first integer, last integer, divisor integer, rest integer) RETURNS integer LANGUAGE sql
AS 'SELECT (last + divisor - rest) / divisor - (first - 1 + divisor - rest) / divisor';

-- name: make_readers
-- The contact to whom a mail job's message of this number goes: in the order of contacts, each mail job to others.
CREATE FUNCTION pg_temp.reader(number integer, job bigint, contacts integer, recipients integer) RETURNS bigint LANGUAGE sql
AS 'SELECT 1 + CAST(number - 1 AS bigint) * contacts / recipients + job * 7919 % greatest(contacts / recipients, 1)';

-- name: insert_contacts
-- Everybody.
INSERT INTO contact (contact_id, installation_id, address, address_key) OVERRIDING SYSTEM VALUE
SELECT n, CAST(:i AS integer), 'r' || n || '@example.net', 'r' || n || '@example.net'
FROM generate_series(1, CAST(:contacts AS integer)) AS n;

-- name: insert_audiences
-- Two audiences, that have been imported.
WITH a AS (
    INSERT INTO audience (installation_id, name) VALUES (CAST(:i AS integer), 'everybody'), (CAST(:i AS integer), 'half')
    RETURNING audience_id
)
INSERT INTO audience_import (audience_id, source, started_at, finished_at, members)
SELECT audience_id, 'list.csv', now(), now(), CAST(:contacts AS integer) FROM a;

-- name: insert_members
-- Who is in them.
INSERT INTO audience_member (audience_id, contact_id, import_id)
SELECT a.audience_id, c.contact_id, 1
FROM audience AS a INNER JOIN contact AS c ON a.name = 'everybody' OR c.contact_id % 2 = 0;

-- name: insert_campaigns
-- Twenty campaigns.
INSERT INTO campaign (installation_id, name, digest, folder)
SELECT CAST(:i AS integer), 'campaign ' || n, '', 'campaigns/' || n FROM generate_series(1, 20) AS n;

-- name: make_plan
-- The mail jobs that are to be.
CREATE TEMPORARY TABLE job AS
SELECT j.*, CAST(j.day AS timestamptz) AS at
FROM unnest(
    CAST(:ids AS bigint[]), CAST(:days AS date[]), CAST(:messages AS integer[]), CAST(:sent AS integer[]),
    CAST(:children AS integer[]), CAST(:recipients AS integer[])
) AS j (id, day, messages, sent, children, recipients);

-- name: insert_mail_jobs
-- All but the children.
INSERT INTO mail_job (
    mail_job_id, release_id, installation_id, kind, state, created_at, queued_at, started_at, ended_at,
    first_message, last_message, next_message, mailcaster, heartbeat_at
) OVERRIDING SYSTEM VALUE
SELECT
    id, id, CAST(:i AS integer), CAST(CASE WHEN is_parent THEN 'parent' ELSE 'small' END AS mail_job_kind),
    CAST(
        CASE
            WHEN is_parent AND sent = messages THEN 'P_FINISHED' WHEN sent = messages THEN 'FINISHED'
            WHEN is_parent AND sent > 0 THEN 'P_ASSIGNING' WHEN is_parent THEN 'P_QUEUED' ELSE 'QUEUED'
        END AS mail_job_state
    ),
    at, at, CASE WHEN sent > 0 THEN at END, CASE WHEN sent = messages THEN at + interval '1 hour' END, 1, messages,
    CASE WHEN is_parent THEN sent + 1 END, CASE WHEN sent > 0 AND NOT is_parent THEN 'm1' END, at
FROM (SELECT job.*, messages > CAST(:child AS integer) AS is_parent FROM job) AS job;

-- name: insert_children
-- Numbers of children follow their parent's.
INSERT INTO mail_job (
    mail_job_id, release_id, installation_id, parent_id, kind, state, created_at, queued_at, started_at, ended_at,
    first_message, last_message, mailcaster, fence, heartbeat_at
) OVERRIDING SYSTEM VALUE
SELECT
    id + n, id, CAST(:i AS integer), id, 'child', 'FINISHED', at, at, at, at + interval '1 hour',
    1 + (n - 1) * CAST(:child AS integer), least(n * CAST(:child AS integer), sent), 'm1', 1, at
FROM job CROSS JOIN LATERAL generate_series(1, children) AS n;

-- name: update_figures
-- What was recorded under each: of a hundred messages two are rejected, of a thousand one is uncertain.
UPDATE mail_job
SET rejected = f.rejected, uncertain = f.uncertain, deferred = f.deferred,
    accepted = f.messages - f.rejected - f.uncertain - f.deferred
FROM (
    SELECT
        mail_job_id, last_message - first_message + 1 AS messages,
        pg_temp.counted(first_message, last_message, 50, 7) AS rejected,
        pg_temp.counted(first_message, last_message, 1000, 11) AS uncertain,
        CASE
            WHEN created_at >= current_date THEN pg_temp.counted(first_message, last_message, 100, 1) ELSE 0
        END AS deferred
    FROM mail_job
    WHERE state = 'FINISHED'
) AS f
WHERE mail_job.mail_job_id = f.mail_job_id;

-- name: insert_releases
-- What was released; the places of the last two days may still be given back.
INSERT INTO release (
    release_id, campaign_id, released_at, released_on, files, digest, content_digest, audience_ids, resolved_at,
    audience_rows, duplicates, recipient_count, assembled_up_to, assembled_at, message_count, bypassed_count, takes_places,
    places_settled_at, reported_at, messages_dropped_at
)
SELECT
    id, 1 + id % 20, at, day, '{}', CAST(CAST(id AS text) AS bytea), CAST(CAST(id AS text) AS bytea), '{1}', at, recipients, 0,
    recipients, recipients, at, messages, recipients - messages, TRUE,
    CASE WHEN day < CAST(:first_with_messages AS date) THEN at END, CASE WHEN sent = messages THEN at END,
    CASE WHEN day < CAST(:first_with_messages AS date) THEN at END
FROM job;

-- name: insert_results
-- A day's first results, in the order of messages.
INSERT INTO result (
    released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text,
    relay
)
SELECT
    day, id, n, CASE WHEN children > 0 THEN id + 1 + (n - 1) / CAST(:child AS integer) ELSE id END,
    pg_temp.reader(n, id, CAST(:contacts AS integer), recipients),
    at + interval '1 hour' * n / messages,
    CAST(
        CASE
            WHEN n % 50 = 7 THEN 'rejected' WHEN n % 100 = 1 THEN 'deferred' WHEN n % 1000 = 11 THEN 'uncertain'
            ELSE 'accepted'
        END AS outcome
    ),
    CASE WHEN n % 50 = 7 THEN 550 WHEN n % 100 = 1 THEN 451 WHEN n % 1000 = 11 THEN NULL ELSE 250 END,
    CASE WHEN n % 50 = 7 THEN '5.1.1' WHEN n % 100 = 1 THEN '4.7.1' WHEN n % 1000 = 11 THEN NULL ELSE '2.0.0' END,
    CASE WHEN n % 50 = 7 THEN 'no such user' WHEN n % 100 = 1 THEN 'greylisted' END, 'relay'
FROM job CROSS JOIN LATERAL generate_series(1, sent) AS n
WHERE day = CAST(:day AS date);

-- name: insert_second_results
-- What was deferred was accepted later; today's is waiting still.
INSERT INTO result (
    released_on, release_id, message_no, mail_job_id, contact_id, occurred_at, outcome, reply_code, enhanced_code, relay,
    result_no, supersedes
)
SELECT
    day, id, n, CASE WHEN children > 0 THEN id + 1 + (n - 1) / CAST(:child AS integer) ELSE id END,
    pg_temp.reader(n, id, CAST(:contacts AS integer), recipients), at + interval '2 hours', 'accepted', 250, '2.0.0',
    'relay', 2, 'deferred'
FROM job CROSS JOIN LATERAL generate_series(1, sent, 100) AS n
WHERE day = CAST(:day AS date) AND day < current_date;

-- name: insert_recipients
-- In the order of contacts, the last hundredth bypassed.
INSERT INTO recipient (released_on, release_id, recipient_no, audience_id, contact_id, bypass_reason)
SELECT
    day, id, n, 1, pg_temp.reader(n, id, CAST(:contacts AS integer), recipients),
    CASE WHEN n > messages THEN 'opted_out' END
FROM job CROSS JOIN LATERAL generate_series(1, recipients) AS n
WHERE day = CAST(:day AS date);

-- name: insert_messages
-- In blocks of sixty-four.
INSERT INTO assembled_message (released_on, release_id, message_no, recipient_no, contact_id, size, place_in_block, address)
SELECT day, id, n, n, contact_id, 14000, (n - 1) % 64, 'r' || contact_id || '@example.net'
FROM job
CROSS JOIN LATERAL (
    SELECT n, pg_temp.reader(n, id, CAST(:contacts AS integer), recipients) AS contact_id
    FROM generate_series(1, messages) AS n
) AS message
WHERE day = CAST(:day AS date);

-- name: insert_blocks
-- Sixty-four messages each, of some 130 octets, as newsletters have when they are compressed together.
INSERT INTO message_block (released_on, release_id, first_message, block)
SELECT day, id, n, CAST(repeat(md5(CAST(n AS text)), 260) AS bytea)
FROM job CROSS JOIN LATERAL generate_series(1, messages, 64) AS n
WHERE day = CAST(:day AS date);

-- name: insert_delivery_log
-- What was deferred on a day, and a single mail for each thousand messages.
INSERT INTO delivery_log (
    day, loose_mail_id, installation_id, kind, campaign_id, contact_id, address, release_id, message_no, created_at, ended_at,
    attempts, outcome, relay, reply_code
)
SELECT
    day, id * CAST(:numbers AS bigint) + n, CAST(:i AS integer), CAST(k.kind AS loose_mail_kind), 1 + id % 20, m.contact_id,
    'r' || m.contact_id || '@example.net', CASE WHEN k.kind = 'retry' THEN id END, CASE WHEN k.kind = 'retry' THEN n END, at,
    at + interval '2 hours' + interval '1 millisecond' * n, 1, 'accepted', 'relay', 250
FROM job
CROSS JOIN LATERAL generate_series(1, sent, 100) AS n
CROSS JOIN LATERAL (
    SELECT pg_temp.reader(n, id, CAST(:contacts AS integer), recipients) AS contact_id
) AS m
CROSS JOIN LATERAL (SELECT CASE WHEN n % 1000 = 1 THEN 'single' ELSE 'retry' END AS kind) AS k
WHERE day = CAST(:day AS date);

-- name: insert_history
-- What was queued in the duplicate history.
INSERT INTO queue_history (queued_on, mail_key, queued_at)
SELECT CAST(:day AS date), sha256(CAST(id || ' ' || n AS bytea)), at
FROM job CROSS JOIN LATERAL generate_series(1, sent, 100) AS n
WHERE day = CAST(:day AS date);

-- name: insert_daily_counts
-- The daily log; one contact in ten got something.
INSERT INTO daily_mail_count (day, installation_id, contact_id, mails)
SELECT CAST(:day AS date), CAST(:i AS integer), n, 1
FROM generate_series(1 + CAST(extract(DAY FROM CAST(:day AS date)) AS integer) % 10, CAST(:contacts AS integer), 10) AS n;

-- name: insert_retries
-- What was deferred today waits for its next attempt; one in twenty is a dead letter.
INSERT INTO loose_mail (
    installation_id, kind, state, due_at, campaign_id, contact_id, address, released_on, release_id, message_no, mail_job_id,
    result_no, last_outcome, attempts
)
SELECT
    CAST(:i AS integer), 'retry', CAST(CASE WHEN n % 2000 = 1 THEN 'FAILED' ELSE 'SCHEDULED' END AS loose_mail_state),
    now() + interval '1 hour', 1 + id % 20, n, 'r' || n || '@example.net', day, id, n,
    CASE WHEN children > 0 THEN id + 1 + (n - 1) / CAST(:child AS integer) ELSE id END, 1, 'deferred', 1
FROM job CROSS JOIN LATERAL generate_series(1, sent, 100) AS n
WHERE day = current_date;

-- name: insert_single_mails
-- Single mails: most wait for their time, one in ten has failed.
WITH frozen AS (
    INSERT INTO frozen_campaign (campaign_id, digest, files, frozen_at) VALUES (1, '', '{}', now())
    RETURNING campaign_id, frozen_campaign_id
)
INSERT INTO loose_mail (installation_id, kind, state, due_at, campaign_id, contact_id, address, frozen_campaign_id, code)
SELECT
    CAST(:i AS integer), 'single', CAST(CASE WHEN n % 10 = 0 THEN 'FAILED' ELSE 'SCHEDULED' END AS loose_mail_state),
    now() + interval '1 hour', f.campaign_id, n, 'r' || n || '@example.net', f.frozen_campaign_id,
    CASE WHEN n % 10 = 0 THEN 'recipient_not_accepted' END
FROM frozen AS f CROSS JOIN generate_series(1, CAST(:contacts AS integer), 100) AS n;

-- name: insert_held_mails
-- What the frequency policy holds: one contact in ten waits.
INSERT INTO held_mail (
    installation_id, contact_id, campaign_id, release_id, audience_id, priority, held_at, expires_at, max_mails, days
)
SELECT CAST(:i AS integer), n, 1 + n % 20, CAST(:release_id AS bigint), 1, 0, now(), now() + interval '7 days', 3, 7
FROM generate_series(1, CAST(:contacts AS integer), 10) AS n;
