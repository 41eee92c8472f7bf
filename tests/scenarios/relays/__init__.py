"""Relays for the scenarios: a scripted one steered by the address, Postfix's smtp-sink, aiosmtpd with TLS."""
