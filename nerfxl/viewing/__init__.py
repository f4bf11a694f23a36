"""Looking around a fitted scene in a browser; `page` and those it imports below know viser."""
