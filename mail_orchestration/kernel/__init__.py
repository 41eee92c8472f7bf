"""The shared ground of the stages: errors, clock, records, settings, the database and its statements."""
