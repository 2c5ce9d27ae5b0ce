"""What outlives a process: runs in MLflow, checkpoints, a teacher's logits, files that are whole or not there.

The only room that talks to MLflow: tracking.py writes, records.py reads. May be touched: what a run logs
(docs/contract.md first), how a store that is away is waited for. Knows no method and no statistics.
"""
