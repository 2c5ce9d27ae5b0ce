"""Predictions of runs, read and checked: the score recomputed from them must be the score that was logged.

`predictions(run_id, split)` gives a DataFrame with columns idx, label and p_<class>..., or None; a mapping from
(run_id, split) to such a frame will do too.
"""
