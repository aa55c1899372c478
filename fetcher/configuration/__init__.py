"""Settings: every option said once, where each value came from, and the key."""
