"""The counters of the frequency policy, worked out anew from the daily log, the gate and the places given back."""

from __future__ import annotations

COUNTERS_THAT_ARE_WRONG = """
WITH policy AS (
    SELECT p.counted_for, p.policy ->> 'window' AS span, r.place, CAST(r.rule ->> 'days' AS integer) AS days
    FROM frequency_policy AS p
    CROSS JOIN jsonb_array_elements(p.policy -> 'rules') WITH ORDINALITY AS r (rule, place)
    WHERE p.installation_id = :i
),
log AS (SELECT * FROM daily_mail_count WHERE installation_id = :i),
taken AS (
    SELECT p.contact_id, count(*) AS places FROM release AS r
    JOIN mail_job AS j ON j.mail_job_id = r.release_id
    JOIN recipient AS p ON p.release_id = r.release_id
    LEFT JOIN bypass AS b ON b.release_id = p.release_id AND b.recipient_no = p.recipient_no
        AND b.stage IN ('preprocess', 'filter', 'frequency')
    WHERE j.installation_id = :i AND r.takes_places AND p.bypass_reason IS NULL AND b.stage IS NULL
    GROUP BY p.contact_id
),
given_back AS (
    SELECT g.contact_id, count(*) AS places FROM place_given_back AS g
    JOIN mail_job AS j ON j.mail_job_id = g.release_id WHERE j.installation_id = :i GROUP BY g.contact_id
),
windows AS (
    SELECT contact.contact_id, coalesce(c.places, 0) AS places,
        ARRAY(
            SELECT coalesce((ARRAY[c.mails_1, c.mails_2, c.mails_3, c.mails_4])[p.place], 0)
            FROM policy AS p ORDER BY p.place
        ) AS told,
        ARRAY(
            SELECT CAST(coalesce(sum(l.mails), 0) AS integer) FROM policy AS p
            LEFT JOIN log AS l ON l.contact_id = contact.contact_id
                AND l.day >= p.counted_for - p.days + CASE p.span WHEN 'calendar' THEN 1 ELSE 0 END
            GROUP BY p.place ORDER BY p.place
        ) AS counted
    FROM contact LEFT JOIN frequency_counter AS c USING (contact_id) WHERE contact.installation_id = :i
)
SELECT w.contact_id, w.places, coalesce(t.places, 0) AS taken, coalesce(g.places, 0) AS given_back,
    coalesce(l.placed, 0) AS placed, w.told, w.counted
FROM windows AS w
LEFT JOIN taken AS t USING (contact_id)
LEFT JOIN given_back AS g USING (contact_id)
LEFT JOIN (SELECT contact_id, sum(placed) AS placed FROM log GROUP BY contact_id) AS l USING (contact_id)
WHERE w.places <> coalesce(t.places, 0) - coalesce(g.places, 0) - coalesce(l.placed, 0) OR w.places < 0
    OR w.told <> w.counted
"""
"""Contacts of the installation `:i` whose counters are not what those make of them, with both."""
