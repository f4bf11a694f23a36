"""A run for people, in one page that opens from disk: what was asked, how it went, what is seen."""
