-- Results, daily counts, books and reports.

-- name: append_results
-- One flush of the results log: every row, or none when the mail job is no longer held under this fence. The row lock
-- makes whoever takes the mail job away wait until this flush has committed, or makes this flush see the new fence.
WITH held AS (
    SELECT FROM mail_job
    WHERE mail_job_id = CAST(:mail_job_id AS bigint) AND state IN ('RUNNING', 'STOPPING') AND fence = CAST(:fence AS bigint)
    FOR SHARE
)
INSERT INTO result (
    released_on, release_id, mail_job_id,
    message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay
)
SELECT
    CAST(:released_on AS date), CAST(:release_id AS bigint), CAST(:mail_job_id AS bigint),
    r.message_no, r.contact_id, r.occurred_at, r.outcome, r.reply_code, r.enhanced_code, r.reply_text, r.relay
FROM unnest(
    CAST(:message_nos AS integer[]), CAST(:contact_ids AS bigint[]), CAST(:moments AS timestamptz[]),
    CAST(:outcomes AS outcome[]), CAST(:reply_codes AS smallint[]), CAST(:enhanced_codes AS text[]),
    CAST(:reply_texts AS text[]), CAST(:relays AS text[])
) AS r (message_no, contact_id, occurred_at, outcome, reply_code, enhanced_code, reply_text, relay)
WHERE EXISTS (SELECT FROM held);

-- name: require_durable_commits
-- A session whose database or user was set to lose the last commits in a crash is set right; stronger settings stay.
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';


-- name: has_mails_between
-- Whether any mail of the installation was accepted in a span of time, for a day that may have none.
SELECT EXISTS (
    SELECT FROM result AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE r.occurred_at >= CAST(:starts_at AS timestamptz) AND r.occurred_at < CAST(:ends_at AS timestamptz)
        AND r.outcome = 'accepted' AND j.installation_id = CAST(:installation_id AS integer)
);

-- name: ensure_partitions_of_day
-- The partitions of one day, made where they are missing.
SELECT ensure_day_partitions(CAST(:day AS date));

-- name: count_mails_of_day
-- The daily log of one day from its accepted results. Results are only ever added, so that a repeat can only find more:
-- the larger figure is right, also after retention dropped the results. The order keeps two runs from a deadlock.
INSERT INTO daily_mail_count AS known (day, installation_id, contact_id, mails)
SELECT CAST(:day AS date), CAST(:installation_id AS integer), r.contact_id, count(*)
FROM result AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
WHERE r.occurred_at >= CAST(:starts_at AS timestamptz) AND r.occurred_at < CAST(:ends_at AS timestamptz)
    AND r.outcome = 'accepted' AND j.installation_id = CAST(:installation_id AS integer)
GROUP BY r.contact_id
ORDER BY r.contact_id
ON CONFLICT (contact_id, day) DO UPDATE SET mails = excluded.mails WHERE known.mails < excluded.mails;

-- name: close_day
-- The day's totals, from the daily log itself.
INSERT INTO closed_day (installation_id, day, closed_at, mails, contacts)
SELECT
    CAST(:installation_id AS integer), CAST(:day AS date), CAST(:now AS timestamptz), coalesce(sum(c.mails), 0), count(*)
FROM daily_mail_count AS c
WHERE c.day = CAST(:day AS date) AND c.installation_id = CAST(:installation_id AS integer)
ON CONFLICT (installation_id, day) DO UPDATE
SET closed_at = excluded.closed_at, mails = excluded.mails, contacts = excluded.contacts
RETURNING mails, contacts;

-- name: closed_days
-- When each day of the installation was closed, and the moment of its first release, before which there is no mail.
SELECT c.day, c.closed_at, f.first_released_at
FROM (
    SELECT min(r.released_at) AS first_released_at
    FROM release AS r
    INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE j.installation_id = CAST(:installation_id AS integer)
) AS f
LEFT JOIN closed_day AS c ON c.installation_id = CAST(:installation_id AS integer)
ORDER BY c.day;

-- name: count_contacts_by_mails
-- For each of up to four windows, how many contacts got how many mails. A mail of day D counts through D + days.
-- One pass and one group for each contact: a group for each window and contact took twice as long and more.
WITH per_contact AS (
    SELECT
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[1]) AS first,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[2]) AS second,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[3]) AS third,
        sum(mails) FILTER (WHERE day >= CAST(:today AS date) - (CAST(:windows AS integer[]))[4]) AS fourth
    FROM daily_mail_count
    WHERE installation_id = CAST(:installation_id AS integer)
        AND day BETWEEN CAST(:first_day AS date) AND CAST(:today AS date)
    GROUP BY contact_id
),
alike AS (
    SELECT first, second, third, fourth, count(*) AS contacts FROM per_contact GROUP BY first, second, third, fourth
)
SELECT w.days, CAST(w.mails AS integer) AS mails, CAST(sum(a.contacts) AS bigint) AS contacts
FROM alike AS a
CROSS JOIN unnest(CAST(:windows AS integer[]), ARRAY[a.first, a.second, a.third, a.fourth]) AS w (days, mails)
WHERE w.mails IS NOT NULL
GROUP BY w.days, w.mails
ORDER BY w.days, w.mails;


-- name: release_for_report
-- What is known of a release besides its rows.
SELECT r.released_on, r.released_at, c.name AS campaign, j.state, j.kind, j.reason
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
INNER JOIN campaign AS c ON c.campaign_id = r.campaign_id
WHERE r.release_id = CAST(:release_id AS bigint);

-- name: count_books
-- Every row of a release, counted once, in one statement so that all lines are of the same instant. The last result of a
-- message counts. What has none is being sent when its mail job is being worked on, and was stopped with its release.
WITH this_release AS (
    SELECT r.*, j.state FROM release AS r INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE r.release_id = CAST(:release_id AS bigint)
),
last_result AS (
    SELECT DISTINCT ON (message_no) message_no, outcome FROM result
    WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
    ORDER BY message_no, occurred_at DESC, outcome
),
worked_on AS (
    SELECT coalesce(range_agg(int4range(first_message, last_message, '[]')), '{}') AS messages FROM mail_job
    WHERE release_id = CAST(:release_id AS bigint) AND state IN ('RUNNING', 'STOPPING')
),
fate AS (
    SELECT
        CASE
            WHEN m.message_no IS NULL THEN 'stray'
            WHEN l.outcome IS NOT NULL THEN 'outcome'
            WHEN m.message_no <@ w.messages THEN 'sending'
            WHEN r.state = 'STOPPED' THEN 'stopped_unsent'
            ELSE 'waiting'
        END AS line, l.outcome, count(*) AS number
    FROM (
        SELECT message_no FROM assembled_message
        WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
    ) AS m
    FULL JOIN last_result AS l ON l.message_no = m.message_no
    CROSS JOIN worked_on AS w
    CROSS JOIN this_release AS r
    GROUP BY 1, 2
)
SELECT 'audience_rows' AS line, '' AS detail, coalesce(audience_rows, 0) AS number FROM this_release
UNION ALL
SELECT 'duplicates', '', coalesce(duplicates, 0) FROM this_release
UNION ALL
SELECT
    CASE
        WHEN p.bypass_reason IS NOT NULL THEN 'bypassed'
        WHEN r.assembled_at IS NULL AND p.recipient_no > r.assembled_up_to AND b.recipient_no IS NULL THEN 'unassembled'
        ELSE 'assembly_done'
    END, coalesce(p.bypass_reason, ''), count(*)
FROM recipient AS p
LEFT JOIN bypass AS b USING (released_on, release_id, recipient_no)
CROSS JOIN this_release AS r
WHERE p.release_id = CAST(:release_id AS bigint) AND p.released_on = CAST(:released_on AS date)
GROUP BY 1, 2
UNION ALL
SELECT 'bypassed_later', reason, count(*) FROM bypass
WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
GROUP BY reason
UNION ALL
SELECT line, coalesce(CAST(outcome AS text), ''), number FROM fate;

-- name: report_mail_jobs
-- The mail jobs of a release that messages are sent under, with what each recorded.
SELECT
    j.mail_job_id, j.state, j.mailcaster, j.recovers_id, j.first_message, j.last_message,
    coalesce(r.accepted, 0) AS accepted, coalesce(r.deferred, 0) AS deferred, coalesce(r.rejected, 0) AS rejected,
    coalesce(r.uncertain, 0) AS uncertain, coalesce(r.others, 0) AS others,
    r.first_result_at, r.last_result_at
FROM mail_job AS j
LEFT JOIN (
    SELECT
        mail_job_id,
        count(*) FILTER (WHERE outcome = 'accepted') AS accepted,
        count(*) FILTER (WHERE outcome = 'deferred') AS deferred,
        count(*) FILTER (WHERE outcome = 'rejected') AS rejected,
        count(*) FILTER (WHERE outcome = 'uncertain') AS uncertain,
        count(*) FILTER (WHERE outcome IN ('stopped', 'expired')) AS others,
        min(occurred_at) AS first_result_at, max(occurred_at) AS last_result_at
    FROM result
    WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
    GROUP BY mail_job_id
) AS r ON r.mail_job_id = j.mail_job_id
WHERE j.release_id = CAST(:release_id AS bigint) AND (j.kind IN ('small', 'child') OR r.mail_job_id IS NOT NULL)
ORDER BY j.mail_job_id;

-- name: report_domains
-- Recipient domains by number of messages, with the last result of each message. A quoted local part may hold an @.
SELECT
    split_part(m.address, '@', -1) AS domain,
    count(*) AS messages,
    count(*) FILTER (WHERE l.outcome = 'accepted') AS accepted,
    count(*) FILTER (WHERE l.outcome = 'deferred') AS deferred,
    count(*) FILTER (WHERE l.outcome = 'rejected') AS rejected,
    count(*) FILTER (WHERE l.outcome = 'uncertain') AS uncertain,
    count(*) FILTER (WHERE l.outcome IN ('stopped', 'expired')) AS others
FROM assembled_message AS m
LEFT JOIN (
    SELECT DISTINCT ON (message_no) message_no, outcome FROM result
    WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
    ORDER BY message_no, occurred_at DESC, outcome
) AS l ON l.message_no = m.message_no
WHERE m.release_id = CAST(:release_id AS bigint) AND m.released_on = CAST(:released_on AS date)
GROUP BY 1
ORDER BY messages DESC, domain
LIMIT CAST(:most AS integer);

-- name: report_replies
-- What relays answered, by reply code and enhanced status code, with one text of each.
SELECT outcome, reply_code, enhanced_code, count(*) AS results, min(reply_text) AS sample
FROM result
WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
GROUP BY outcome, reply_code, enhanced_code
ORDER BY results DESC, outcome, reply_code, enhanced_code
LIMIT CAST(:most AS integer);

-- name: report_timeline
-- Results per bucket of time and outcome, the buckets counted from the epoch.
SELECT
    date_bin(make_interval(secs => CAST(:bucket_seconds AS integer)), occurred_at, CAST('epoch' AS timestamptz)) AS starts_at,
    outcome, count(*) AS results
FROM result
WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
GROUP BY 1, 2
ORDER BY 1, 2;
