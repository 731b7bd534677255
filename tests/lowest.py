"""
This script prints the lowest versions that setup.cfg admits, as constraints for pip.

    python tests/lowest.py > lowest.txt && pip install -c lowest.txt -e '.[test]'
"""

from configparser import ConfigParser
from pathlib import Path

SETUP = Path(__file__).parent.parent / "setup.cfg"


def lowest() -> list[str]:
    """Return a line C{name==version} for each requirement, C{name >= version, ...}."""
    parser = ConfigParser()
    parser.read(SETUP)
    required = parser["options"]["install_requires"].split("\n")
    return [
        line.partition(",")[0].replace(">=", "==").replace(" ", "")
        for line in required
        if ">=" in line
    ]


if __name__ == "__main__":
    print("\n".join(lowest()))
