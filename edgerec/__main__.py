"""`python -m edgerec` is the `edgerec` command."""

from edgerec.cli import main

if __name__ == "__main__":
    main(prog_name="edgerec")
