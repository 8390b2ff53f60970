"""Jobs on many processes and many machines: one pure function for a shard, and several ways to launch it.

`job.py` says what a job is and runs one; `ledger.py` is what was done, `place.py` where its files lie; `local.py`,
`ray.py` and `rank.py` are the launchers; `embed_*.py`, `translate*.py` and `index*.py` are the jobs. docs/formats.md
describes the files.
"""
