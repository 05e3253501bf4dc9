"""Jobs: folders of work, and processes that do it on this machine or on a cluster.

A job's process reads ``job.json``, and leaves ``row.json`` if it is done, or ``error.txt`` if it failed. Meanwhile it
may write ``work/progress.json`` and ``work/training/*.ckpt``, each whole; from the last of these another attempt goes
on.
"""
