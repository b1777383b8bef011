"""`python -m guardproxy` is the command `guardproxy`."""

from guardproxy.cli import program

if __name__ == "__main__":
    program()
