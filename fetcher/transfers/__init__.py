"""One file, from its first request to proven bytes."""
