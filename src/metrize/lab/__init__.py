"""Tasks, trainer, comparison and report behind the command line; the library itself never imports this."""
