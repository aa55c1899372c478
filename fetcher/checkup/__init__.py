"""What `fetcher doctor` looks at: each check tells what it found and how to mend it.

Changes nothing: what is tried on disk is removed again, and the API is asked for one
record. Each step is bounded in time, and one that fails keeps no other from being tried.
"""
