"""Score files: the table of rows, its storage, and how runs commit to it without losing a row."""
