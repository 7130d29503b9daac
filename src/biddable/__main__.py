"""`python -m biddable`, which torchrun starts."""

from biddable.cli.main import run

if __name__ == "__main__":
    run()
