"""Where steps are carried out: processes of this machine, or tasks of a Ray cluster. Knows steps, not what they do."""
