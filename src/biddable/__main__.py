"""`python -m biddable`, which torchrun starts."""

from biddable.cli import run

if __name__ == "__main__":
    run()
