"""The pass times that space-agent is compared with are still those that skyfield computes."""

import importlib.util
import json
from pathlib import Path

ORBIT = Path(__file__).parents[1] / "orbit"


def test_the_committed_passes_are_those_of_skyfield():
    spec = importlib.util.spec_from_file_location("passes", ORBIT / "passes.py")
    passes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(passes)
    committed = json.loads((ORBIT / "passes.json").read_text())
    for now, then in zip(passes.fixtures(), committed, strict=True):
        assert now["elements"] == then["elements"]
        for a, b in zip(now["stations"], then["stations"], strict=True):
            assert len(a["passes"]) == len(b["passes"])
            for (start, end), (old_start, old_end) in zip(a["passes"], b["passes"], strict=True):
                assert abs(start - old_start) < 0.5 and abs(end - old_end) < 0.5
