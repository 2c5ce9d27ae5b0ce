"""What is said of runs that are in a store: verdicts, pages, tables, the GLUE server's files. Needs no torch."""
