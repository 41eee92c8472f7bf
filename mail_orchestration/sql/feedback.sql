-- Statements of feedback/books.py, reports.py, kept_reports.py and progress.py; results are written by those of results.sql.

-- name: release_for_report
-- What is known of a release besides its rows.
SELECT
    r.released_on, r.released_at, r.results_dropped_at, r.is_dry_run, r.held_from, r.message_count AS messages,
    c.name AS campaign, j.state, j.kind, j.reason
FROM release AS r
INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
INNER JOIN campaign AS c ON c.campaign_id = r.campaign_id
WHERE r.release_id = CAST(:release_id AS bigint);

-- name: list_later_releases
-- The releases that send what the frequency policy had held of this one. One that was given up before it was queued, and
-- whose mails came back into the frequency queue, is none any more: what came back is in the log no more.
SELECT later.release_id AS mail_job_id, later.released_on, later.released_at, j.state, coalesce(later.recipient_count, 0) AS mails
FROM release AS later
INNER JOIN mail_job AS j ON j.mail_job_id = later.release_id
WHERE later.held_from = CAST(:release_id AS bigint)
    AND (
        j.state NOT IN ('STOPPED', 'FAILED')
        OR EXISTS (
            SELECT FROM held_mail_log AS e
            WHERE e.release_id = CAST(:release_id AS bigint) AND e.later_release_id = later.release_id
        )
    )
ORDER BY later.release_id;

-- name: count_books
-- Every row of a release and of those that send what was held of it, counted once, in one statement so that all lines are
-- of the same instant. A message has its first result once, and each later one takes away what it supersedes. What has
-- none is being sent when its mail job is being worked on, and was stopped with its release.
WITH family AS (
    SELECT r.*, j.state FROM release AS r INNER JOIN mail_job AS j ON j.mail_job_id = r.release_id
    WHERE r.release_id = ANY(CAST(:release_ids AS bigint[]))
),
worked_on AS (
    SELECT release_id, range_agg(int4range(first_message, last_message, '[]')) AS messages FROM mail_job
    WHERE release_id = ANY(CAST(:release_ids AS bigint[])) AND state IN ('RUNNING', 'STOPPING')
    GROUP BY release_id
),
fate AS (
    SELECT
        CASE
            WHEN m.message_no IS NULL THEN 'stray'
            WHEN l.outcome IS NOT NULL THEN 'outcome'
            WHEN m.message_no <@ w.messages THEN 'sending'
            WHEN r.state = 'STOPPED' THEN 'stopped_unsent'
            ELSE 'waiting'
        END AS line, l.outcome, l.supersedes, count(*) AS number
    FROM (
        SELECT release_id, message_no FROM assembled_message
        WHERE release_id = ANY(CAST(:release_ids AS bigint[])) AND released_on = ANY(CAST(:days AS date[]))
        UNION ALL
        SELECT release_id, generate_series(1, message_count) FROM family WHERE messages_dropped_at IS NOT NULL
    ) AS m
    FULL JOIN (
        SELECT release_id, message_no, outcome, supersedes FROM result
        WHERE release_id = ANY(CAST(:release_ids AS bigint[])) AND released_on = ANY(CAST(:days AS date[]))
    ) AS l ON l.message_no = m.message_no AND l.release_id = m.release_id
    LEFT JOIN worked_on AS w ON w.release_id = m.release_id
    LEFT JOIN family AS r ON r.release_id = m.release_id
    GROUP BY 1, 2, 3
),
place AS (
    SELECT
        CASE
            WHEN p.bypass_reason IS NOT NULL THEN 'bypassed'
            WHEN r.assembled_at IS NULL AND p.recipient_no > r.assembled_up_to AND b.recipient_no IS NULL THEN 'unassembled'
            ELSE 'assembly_done'
        END AS line, coalesce(p.bypass_reason, '') AS reason, p.release_id = CAST(:release_id AS bigint) AS is_own,
        count(*) AS number
    FROM recipient AS p
    LEFT JOIN bypass AS b USING (released_on, release_id, recipient_no)
    INNER JOIN family AS r ON r.release_id = p.release_id
    WHERE p.release_id = ANY(CAST(:release_ids AS bigint[])) AND p.released_on = ANY(CAST(:days AS date[]))
    GROUP BY 1, 2, 3
)
SELECT 'audience_rows' AS line, '' AS detail, coalesce(audience_rows, 0) AS number
FROM family WHERE release_id = CAST(:release_id AS bigint)
UNION ALL
SELECT 'duplicates', '', coalesce(duplicates, 0) FROM family WHERE release_id = CAST(:release_id AS bigint)
UNION ALL
SELECT CASE WHEN is_own THEN 'recipients' ELSE 'sent_later' END, '', number FROM place
UNION ALL
SELECT line, reason, number FROM place WHERE line <> 'assembly_done'
UNION ALL
SELECT
    CASE WHEN stage = 'frequency' THEN 'frequency_' || reason ELSE 'bypassed' END,
    CASE WHEN stage = 'frequency' THEN detail ELSE reason END,
    count(*)
FROM bypass
WHERE release_id = ANY(CAST(:release_ids AS bigint[])) AND released_on = ANY(CAST(:days AS date[]))
GROUP BY 1, 2
UNION ALL
SELECT 'held', '', count(*) FROM held_mail WHERE release_id = CAST(:release_id AS bigint)
UNION ALL
SELECT 'ended', CAST(ending AS text), count(*) FROM held_mail_log WHERE release_id = CAST(:release_id AS bigint)
GROUP BY ending
UNION ALL
SELECT line, coalesce(CAST(outcome AS text), ''), number FROM fate
UNION ALL
SELECT line, CAST(supersedes AS text), -number FROM fate WHERE line = 'outcome' AND supersedes IS NOT NULL
UNION ALL
SELECT 'retry', CAST(state AS text), count(*) FROM loose_mail
WHERE kind = 'retry' AND release_id = ANY(CAST(:release_ids AS bigint[]))
GROUP BY state
UNION ALL
SELECT 'broken_chain', '', count(*) FROM result AS later
WHERE later.release_id = ANY(CAST(:release_ids AS bigint[])) AND later.released_on = ANY(CAST(:days AS date[]))
    AND later.supersedes IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM result AS earlier
        WHERE earlier.release_id = later.release_id AND earlier.released_on = later.released_on
            AND earlier.message_no = later.message_no AND earlier.result_no = later.result_no - 1
            AND earlier.outcome = later.supersedes
    );

-- name: report_mail_jobs
-- The mail jobs of a release that messages are sent under: the results that each recorded, and those of them that are
-- their messages' last. A later result takes the one before it from the mail job that recorded that one.
WITH this_release AS NOT MATERIALIZED (
    SELECT * FROM result WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
),
recorded AS (
    SELECT mail_job_id, outcome, count(*) AS results, min(occurred_at) AS first_result_at, max(occurred_at) AS last_result_at
    FROM this_release
    GROUP BY mail_job_id, outcome
    UNION ALL
    SELECT earlier.mail_job_id, later.supersedes, -count(*), NULL, NULL
    FROM this_release AS later
    INNER JOIN this_release AS earlier
        ON later.message_no = earlier.message_no AND later.result_no = earlier.result_no + 1
    WHERE later.supersedes IS NOT NULL
    GROUP BY earlier.mail_job_id, later.supersedes
)
SELECT
    j.mail_job_id, j.state, j.mailcaster, j.recovers_id, j.first_message, j.last_message,
    CAST(coalesce(r.results, 0) AS bigint) AS results,
    CAST(coalesce(r.accepted, 0) AS bigint) AS accepted,
    CAST(coalesce(r.deferred, 0) AS bigint) AS deferred,
    CAST(coalesce(r.rejected, 0) AS bigint) AS rejected,
    CAST(coalesce(r.uncertain, 0) AS bigint) AS uncertain,
    CAST(coalesce(r.others, 0) AS bigint) AS others,
    r.first_result_at, r.last_result_at
FROM mail_job AS j
LEFT JOIN (
    SELECT
        mail_job_id,
        sum(results) FILTER (WHERE results > 0) AS results,
        sum(results) FILTER (WHERE outcome = 'accepted') AS accepted,
        sum(results) FILTER (WHERE outcome = 'deferred') AS deferred,
        sum(results) FILTER (WHERE outcome = 'rejected') AS rejected,
        sum(results) FILTER (WHERE outcome = 'uncertain') AS uncertain,
        sum(results) FILTER (WHERE outcome IN ('stopped', 'expired')) AS others,
        min(first_result_at) AS first_result_at, max(last_result_at) AS last_result_at
    FROM recorded
    GROUP BY mail_job_id
) AS r ON r.mail_job_id = j.mail_job_id
WHERE j.release_id = CAST(:release_id AS bigint) AND (j.kind IN ('small', 'child') OR r.mail_job_id IS NOT NULL)
ORDER BY j.mail_job_id;

-- name: report_domains
-- Recipient domains by number of messages, with what became of each message. A quoted local part may hold an @.
SELECT
    split_part(m.address, '@', -1) AS domain,
    count(*) FILTER (WHERE l.supersedes IS NULL) AS messages,
    count(*) FILTER (WHERE l.outcome = 'accepted') - count(*) FILTER (WHERE l.supersedes = 'accepted') AS accepted,
    count(*) FILTER (WHERE l.outcome = 'deferred') - count(*) FILTER (WHERE l.supersedes = 'deferred') AS deferred,
    count(*) FILTER (WHERE l.outcome = 'rejected') - count(*) FILTER (WHERE l.supersedes = 'rejected') AS rejected,
    count(*) FILTER (WHERE l.outcome = 'uncertain') - count(*) FILTER (WHERE l.supersedes = 'uncertain') AS uncertain,
    count(*) FILTER (WHERE l.outcome IN ('stopped', 'expired'))
        - count(*) FILTER (WHERE l.supersedes IN ('stopped', 'expired')) AS others
FROM assembled_message AS m
LEFT JOIN (
    SELECT message_no, outcome, supersedes FROM result
    WHERE release_id = CAST(:release_id AS bigint) AND released_on = CAST(:released_on AS date)
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

-- name: read_signs
-- By what it shows that the report of these releases would be another: every figure and state of their mail jobs, how far
-- assembly is, which retries there are and which of their results came last, and what the frequency policy holds or has let
-- go. Null while somebody works on one: figures are behind its results then.
SELECT
    CASE WHEN bool_and(j.state NOT IN ('RUNNING', 'STOPPING')) THEN jsonb_build_array(
        md5(
            string_agg(
                concat_ws(
                    ' ', j.mail_job_id, j.state, j.reason, j.mailcaster, j.first_message, j.last_message, j.accepted, j.deferred,
                    j.rejected, j.uncertain, j.stopped, j.fence, j.ended_at
                ), ', ' ORDER BY j.mail_job_id
            )
        ),
        (
            SELECT jsonb_object_agg(
                r.release_id, jsonb_build_array(r.recipient_count, r.assembled_up_to, r.message_count, r.bypassed_count)
            )
            FROM release AS r WHERE r.release_id = ANY(CAST(:release_ids AS bigint[]))
        ),
        (
            SELECT jsonb_object_agg(l.state, l.figures)
            FROM (
                SELECT state, jsonb_build_array(count(*), sum(result_no)) AS figures FROM loose_mail
                WHERE kind = 'retry' AND release_id = ANY(CAST(:release_ids AS bigint[]))
                GROUP BY state
            ) AS l
        ),
        (SELECT count(*) FROM held_mail WHERE release_id = ANY(CAST(:release_ids AS bigint[]))),
        (
            SELECT jsonb_object_agg(e.ending, e.mails)
            FROM (
                SELECT ending, count(*) AS mails FROM held_mail_log WHERE release_id = ANY(CAST(:release_ids AS bigint[]))
                GROUP BY ending
            ) AS e
        )
    ) END AS signs
FROM mail_job AS j
WHERE j.release_id = ANY(CAST(:release_ids AS bigint[]));

-- name: read_kept_report
-- The report that was counted last, and whether it bears these signs.
SELECT CAST(report AS text) AS report, signs IS NOT NULL AND signs = CAST(:signs AS jsonb) AS is_current FROM kept_report
WHERE release_id = CAST(:release_id AS bigint);

-- name: find_what_is_under_way
-- How many recipients these releases have, and whether more becomes of their messages by itself.
SELECT
    CAST(coalesce(sum(r.recipient_count), 0) AS bigint) AS recipients,
    EXISTS (
        SELECT FROM mail_job AS j
        WHERE j.release_id = ANY(CAST(:release_ids AS bigint[]))
            AND j.state IN ('P_ASSIGNING', 'P_ASSIGNED', 'RUNNING', 'STOPPING', 'RECOVERING')
    )
    OR EXISTS (
        SELECT FROM loose_mail AS l
        WHERE l.kind = 'retry' AND l.release_id = ANY(CAST(:release_ids AS bigint[]))
            AND l.state IN ('SCHEDULED', 'QUEUED', 'SENDING')
    ) AS is_under_way
FROM release AS r
WHERE r.release_id = ANY(CAST(:release_ids AS bigint[]));

-- name: read_progress
-- What is noted under each mail job of a release that messages are sent under.
SELECT
    mail_job_id, recovers_id AS recovers, state, mailcaster, first_message, last_message, accepted, deferred, rejected, uncertain,
    stopped
FROM mail_job
WHERE release_id = CAST(:release_id AS bigint) AND kind IN ('small', 'child')
ORDER BY mail_job_id;

-- name: keep_report
-- Keep a report in the place of the one before.
INSERT INTO kept_report AS known (release_id, signs, report)
VALUES (CAST(:release_id AS bigint), CAST(:signs AS jsonb), CAST(:report AS json))
ON CONFLICT (release_id) DO UPDATE SET signs = excluded.signs, report = excluded.report;
