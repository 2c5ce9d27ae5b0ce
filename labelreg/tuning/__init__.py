"""The search of appendix D: Optuna's study, its bridge to runs, and what it found."""
