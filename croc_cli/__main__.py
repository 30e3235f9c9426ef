"""Lets `python -m croc_cli` do what `croc` does."""

from croc_cli.commands.app import main

if __name__ == "__main__":
    main()
