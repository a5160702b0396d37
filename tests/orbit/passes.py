#!/usr/bin/env python3
"""Pass times by skyfield, an independent implementation: writes passes.json, which a test of space-agent compares with its own.

    python3 -m venv venv && venv/bin/pip install skyfield && venv/bin/python tests/orbit/passes.py

The satellites are made up: one in a sun-synchronous orbit, one in an inclined one, one in a long ellipse.
"""

import json
from datetime import timedelta
from pathlib import Path

from skyfield.api import EarthSatellite, load, wgs84

MASKS = [
    # latitude, longitude, altitude in m, mask angle
    (78.2297, 15.3975, 458.0, 10.0),
    (40.0728, 116.2579, 60.0, 10.0),
    (-33.1511, -70.6664, 723.0, 5.0),
    (0.0, 179.9, 0.0, 20.0),
]


def omm(name, number, **orbit):
    return {
        "OBJECT_NAME": name,
        "OBJECT_ID": "2026-001A",
        "EPOCH": "2026-11-20T06:30:00.000000",
        "EPHEMERIS_TYPE": 0,
        "CLASSIFICATION_TYPE": "U",
        "NORAD_CAT_ID": number,
        "ELEMENT_SET_NO": 999,
        "REV_AT_EPOCH": 1234,
        "MEAN_MOTION_DDOT": 0,
    } | orbit


SATELLITES = [
    omm("SUNSYNCHRONOUS", 100001, MEAN_MOTION=15.0563, ECCENTRICITY=0.0011, INCLINATION=97.59, RA_OF_ASC_NODE=42.1,
        ARG_OF_PERICENTER=80.0, MEAN_ANOMALY=280.2, BSTAR=0.0002, MEAN_MOTION_DOT=0.00004),
    omm("INCLINED", 100002, MEAN_MOTION=15.49, ECCENTRICITY=0.0004, INCLINATION=51.64, RA_OF_ASC_NODE=221.3,
        ARG_OF_PERICENTER=89.2, MEAN_ANOMALY=10.5, BSTAR=0.0003, MEAN_MOTION_DOT=0.0001),
    omm("ELLIPSE", 100003, MEAN_MOTION=12.2, ECCENTRICITY=0.12, INCLINATION=63.4, RA_OF_ASC_NODE=120.0,
        ARG_OF_PERICENTER=270.0, MEAN_ANOMALY=0.3, BSTAR=0.00001, MEAN_MOTION_DOT=0.000001),
]


def unix(time):
    return time.utc_datetime().timestamp()


def passes(satellite, place, mask, start, end):
    """Pairs of beginning and end; passes that are cut by the interval are left out."""
    times, events = satellite.find_events(place, start, end, altitude_degrees=mask)
    out, begun = [], None
    for time, event in zip(times, events):
        if event == 0:
            begun = unix(time)
        elif event == 2 and begun is not None:
            out.append([round(begun, 3), round(unix(time), 3)])
            begun = None
    return out


def fixtures():
    """Every satellite with the passes above every station in a week."""
    scale = load.timescale(builtin=True)
    start = scale.utc(2026, 11, 23)
    end = scale.utc(2026, 11, 30)
    out = []
    for elements in SATELLITES:
        satellite = EarthSatellite.from_omm(scale, elements)
        stations = []
        for latitude, longitude, altitude, mask in MASKS:
            place = wgs84.latlon(latitude, longitude, altitude)
            # A pass that is under way at the beginning would begin there, and one at the end is followed to its end.
            late = scale.from_datetime(end.utc_datetime() + timedelta(hours=3))
            found = [p for p in passes(satellite, place, mask, start, late) if p[0] < unix(end)]
            stations.append({"latitude": latitude, "longitude": longitude, "altitude": altitude, "mask": mask, "passes": found})
        out.append({"elements": elements, "from": unix(start), "to": unix(end), "stations": stations})
    return out


def main():
    out = fixtures()
    Path(__file__).with_name("passes.json").write_text(json.dumps(out, indent=1) + "\n")
    print(sum(len(s["passes"]) for f in out for s in f["stations"]), "passes")


if __name__ == "__main__":
    main()
