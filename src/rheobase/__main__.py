"""``python -m rheobase``: the command line."""

from rheobase.cli import main

if __name__ == "__main__":
    main()
