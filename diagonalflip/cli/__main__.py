"""``python -m diagonalflip.cli``."""

from diagonalflip.cli import main

if __name__ == "__main__":
    main()
