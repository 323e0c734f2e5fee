"""`python -m flowstore`: the same as the command `flowstore`."""

from flowstore.cli.main import main

if __name__ == "__main__":
    main()
