"""The manifest: the one truth about what was fetched, as SQLite beside the files.

The only package that imports sqlite3. `schema` opens and migrates, `rows` turns rows into
values, `listing` says what a page of history changes, `store` is what a run reads and
writes (with `queue` and `files`, which build on `writing` and `bulk`), `reader` is what
`list`, `status` and `export` read at any time (through `view`, which survives a writer),
`manifest` puts the store behind one thread for asyncio.
"""
