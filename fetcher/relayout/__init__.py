"""Complete files and another template: where they would go, and moving them there.

Nothing here fetches, and nothing is ever overwritten: a file that cannot be moved stays
where it is, and the manifest goes on naming that place.
"""
