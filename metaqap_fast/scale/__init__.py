"""More than one device: a process for each, merged into one score file."""
