"""One thin module per MLproject entry point: parse, call, log."""
