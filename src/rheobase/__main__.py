"""The command ``rheobase``, and ``python -m rheobase``."""

from rheobase.core import interruption
from rheobase.core.freed_memory import keep_freed_memory


def main() -> None:
    """Run the command line; Ctrl-C is handled before anything that takes time is imported."""
    interruption.handle()
    keep_freed_memory()
    from rheobase.cli import app

    app(prog_name="rheobase")


if __name__ == "__main__":
    main()
