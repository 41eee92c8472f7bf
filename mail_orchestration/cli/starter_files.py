"""What `init` writes: a settings file that explains itself, a first campaign and a first audience."""

from __future__ import annotations

SETTINGS = """\
# The settings of one installation of mail_orchestration. Unknown keys are refused, with file and line.
# Paths count from this file's folder. Secrets never stand here: name an environment variable or a file that holds them.

installation: main
time_zone: UTC                  # days of the frequency counts are days there, such as Europe/Berlin
public_base_url: http://localhost:8025   # where unsubscribe links point: your https address
data_dir: .mail_orchestration   # the embedded PostgreSQL (when DATABASE_URL is not set) and the signing keys
campaigns_dir: campaigns

# Who takes the mail from us. tls: starttls (required, never falls back), implicit (port 465) or none.
relays:
  - name: local
    host: 127.0.0.1
    port: 25
    tls: none
  # - name: provider
  #   host: smtp.example.net
  #   port: 587
  #   tls: starttls
  #   username: mailer
  #   password_env: PROVIDER_PASSWORD
  #   weight: 3                 # three of four messages go here
  #   limits: {per_second: 50, per_hour: 100000}   # of all mailcasters together; 0 is no limit

# Keys that sign what comes from a domain; mail-orchestration dkim-key makes one. Without it your relay must sign.
# dkim:
#   - domain: example.org
#     selector: s2026a
#     key: dkim/example.org.s2026a.pem

# Who works. A mailcaster's type follows from its sizes: see docs/reference/behaviour.md, 4.1.
mailcasters:
  - name: large                 # large job priority: divides big mail jobs into children of 2,000 to 10,000
    min_job_size: 2000
    max_job_size: 10000
    percentage_job_size: 3
    connections: 20
  - name: quick                 # small job only: keeps small mail jobs from waiting behind big ones
    small_job_only: true
    min_job_size: 1
    max_job_size: 99
    connections: 5

dispatcher:
  small_audience_threshold: 100 # a mail job with fewer recipients is small and never divided

# How often anybody may be written to, over all campaigns: see docs/reference/settings.md, frequency. More is held back.
# frequency:
#   enabled: true
#   shelf_life_days: 14         # what is held longer expires
#   window: calendar            # 1 in 1 day: today's alone; rolling (the default) counts a mail through the next day
#   rules:
#     - {max_mails: 1, days: 1}
#     - {max_mails: 3, days: 7}
#     - {max_mails: 8, days: 30}
#     - {max_mails: 20, days: 90}

# Where Dagster's webserver is, for the commands processes, switch and run.
# dagster:
#   url: http://127.0.0.1:3000

# Where audiences are filled from: csv, parquet, direct_mailer (files) or sql with sql_url_env.
audiences:
  - name: newsletter
    csv: audiences/newsletter.csv
    mode: replace               # the audience becomes what the file says; append adds and refreshes
"""

AUDIENCE = """\
email,first_name,city
zoe@example.com,Zoë,Zürich
soren@example.com,Søren,Århus
anna@example.org,Anna,
"""

CAMPAIGN = """\
# What `mail-orchestration check welcome` reads. Every key: docs/reference/campaign.md.

name: welcome
subject: "Welcome, {{ first_name }}"
from: "Our newsletter <news@example.com>"
topic: newsletter               # what a recipient opts out of; without it, of everything

audiences: [newsletter]
required_attributes: [first_name]

# An imagined contact, for `check` and for previews without a real one.
sample_contact:
  first_name: Søren
  city: Århus
"""

HTML = """\
<!DOCTYPE html>
<html lang="en">
<body style="font-family: sans-serif; max-width: 36em; margin: auto">
  <h1>Welcome, {{ first_name }}</h1>
  <p>You are on our list{% if city is defined and city %} in {{ city }}{% endif %}, and this is the first letter.</p>
  <p style="color: #666; font-size: 80%">
    Enough of it? <a href="{{ unsubscribe_url }}">Unsubscribe with one click</a>.
  </p>
</body>
</html>
"""

TEXT = """\
Welcome, {{ first_name }},

you are on our list{% if city is defined and city %} in {{ city }}{% endif %}, and this is the first letter.

Enough of it? Unsubscribe: {{ unsubscribe_url }}
"""

FILES = {
    "mail_orchestration.yaml": SETTINGS,
    "audiences/newsletter.csv": AUDIENCE,
    "campaigns/welcome/campaign.yaml": CAMPAIGN,
    "campaigns/welcome/message.html.j2": HTML,
    "campaigns/welcome/message.txt.j2": TEXT,
}
"""By path, relative to the folder that `init` is given."""
