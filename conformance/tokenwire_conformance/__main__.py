"""``python -m tokenwire_conformance``."""

from tokenwire_conformance.cli import main

if __name__ == "__main__":
    main()
