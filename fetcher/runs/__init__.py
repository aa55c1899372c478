"""One run: the history followed, files queued, fetched, put in place and recorded."""
