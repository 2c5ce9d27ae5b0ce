"""What outlives a process: runs, models and views in MLflow, checkpoints.

The only room that talks to MLflow: tracking.py writes, records.py reads, models.py stores and registers. May be
touched: what a run logs (docs/contract.md first), how a store that is away is waited for. Knows no method and no
statistics.
"""
