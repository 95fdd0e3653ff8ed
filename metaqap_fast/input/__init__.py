"""Where images come from: sources become sorted keys, and keys become bytes."""
