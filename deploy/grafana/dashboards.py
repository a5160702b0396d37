#!/usr/bin/env python3
"""Writes the dashboards: deploy/grafana/dashboards.py [--check] writes dashboards/*.json, or says which differ.

Whoever changes a dashboard in Grafana exports it and carries the change over to here.
"""

import pathlib
import sys

from fleet import FLEET, PASS, SATELLITE
from machines import AGENT, GROUND_STATION
from panels import written

FOLDER = pathlib.Path(__file__).resolve().parent / "dashboards"


def main():
    different = []
    for document in (FLEET, SATELLITE, PASS, GROUND_STATION, AGENT):
        path, text = FOLDER / f"{document['uid'].removeprefix('perigee-')}.json", written(document)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            different.append(path.name)
    if different:
        sys.exit(f"{', '.join(different)}: not what dashboards.py writes; run it")


if __name__ == "__main__":
    main()
