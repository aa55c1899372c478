"""A real `fetcher backfill`, killed with SIGKILL at random moments until it must have broken.

`account` is the history and its faults, `folder` judges what a reader of DIR sees, `runs`
starts and kills, `loop` joins them, `__main__` is the command `scripts/chaos`.
"""
