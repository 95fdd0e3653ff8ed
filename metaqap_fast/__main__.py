"""`python -m metaqap_fast`: the command, where its script is not on the path."""

from metaqap_fast.cli import main

if __name__ == "__main__":
    main(prog_name="metaqap-fast")
