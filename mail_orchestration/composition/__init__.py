"""WHAT: a campaign's folder becomes one message per recipient, byte for byte what will be sent.

definition   the folder, read and validated           composer     one recipient → one message
templates    Jinja2 in a sandbox                      checking     what is wrong with a campaign, before a
release text_part    the text of an HTML body                 compression  stored small, read back exactly
cookies      signed claims: cookies, links            assembly     a million of them, in processes with limits
header_fields, bodies, attachments                    RFC 5322, 2045–2047, 2231, 6532

Knows no database and opens no socket: pages are asked for by egress, rows are stored by the stories.
"""
