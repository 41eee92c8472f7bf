"""WHO: audiences are imported from wherever they are kept, and each release is resolved into its recipients.

`sources` reads, `staging` checks rows, `checking_ahead` has both done while `importing` merges what came before;
`resolving` does dedup, verify and filter for one release, `duplicates` keeps the same content from going to somebody
twice, `handover` gives the recipients on to composition,
`suppressing` keeps who must not be written to.
"""
