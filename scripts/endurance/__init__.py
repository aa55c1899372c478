"""A real `fetcher watch` that lives through a month in minutes.

`life` is the account over that time, `weather` what goes wrong around it, `watcher` the
process and what it says and weighs, `month` joins them, `verdict` judges, `__main__` is the
command `scripts/soak`.
"""
