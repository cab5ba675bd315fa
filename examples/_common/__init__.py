"""What the examples share: command line, files, tables, and the bookkeeping of runs."""
