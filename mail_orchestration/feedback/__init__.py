"""WHAT CAME BACK: the fifth room of the house.

- `results_log` makes the result of every attempt durable, under the claim's fence.
- `books` counts what became of a release's rows, and says whether nothing is missing.
- `daily_counts` closes days: how many mails each contact got on each of them.
- `reports`, `exports` and `plots` show a mail job to people, with no address of a person in it.
"""
