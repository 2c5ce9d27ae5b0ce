"""How a name becomes a network: the registry, heads for text, image networks, weights in files.

May be touched: a model (registry.py, one entry). Knows no data set, no method, no MLflow.
"""
