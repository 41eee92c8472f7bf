"""What workers that send have in common, whether they send mail jobs or loose mails.

station         what is kept from one piece of work to the next
components      the campaign's own, before and after a send
"""
