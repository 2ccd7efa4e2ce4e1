"""Lets `python -m hdev_memory` be the same program as `hdev`."""

from hdev_memory.cli import main

if __name__ == "__main__":
    main()
