"""Everything that touches audio on disk, synchronous; callers run it off the event loop.

`parts` keeps unfinished files and proves how far they are good, `places` finds and takes
paths under DIR without ever leaving it or overwriting anything, `sealing` makes finished
files durable and visible in groups, `locks` lets one process write, `space` watches the disk.
"""
