"""A study: its grid of runs, what it costs and can decide, carrying it out, looking at it while it runs."""
