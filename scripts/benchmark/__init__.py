"""fetcher measured against aria2c, rclone, curl and wget2, and against its own targets.

`workloads` says what is measured and `targets` what it must reach; `origin`, `listing` and
`relay` are the servers, `tools` the command lines, `measure` the stop-watch, `compare` and
`figures` the measuring, `tables` the print. Standard library only, so that the measuring
process stays small: a child's peak memory is never seen below its parent's.
"""
