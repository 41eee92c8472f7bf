"""What workers that send have in common, whether they send mail jobs or loose mails.

station         what is kept from one piece of work to the next
components      the campaign's own, before and after a send
loose_mailer    loose mails, as long as any is due
reservations    those that it has in hand
preparing       what becomes of a loose mail before it leaves
retries         how retries are prepared
loose_log       results of loose mails, durable in groups
loose_tally     what came of a turn, or a shift
"""
