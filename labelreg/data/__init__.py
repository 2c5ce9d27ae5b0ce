"""What an example is, and in which order examples are seen: tasks, splits, text and images, their caching and digests.

May be touched: a task (tasks.py, one entry), a file format (files.py), a kind of data. Knows models only to tokenise;
knows no MLflow, no method, no study.
"""
