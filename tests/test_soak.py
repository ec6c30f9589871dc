"""A little of tests/soak_kill.py."""

import random
import time

import yaml
from soak_kill import TOP, Soak


def test_two_killed_processes_end_with_the_records_tables_and_tensors_of_an_uninterrupted_one(tmp_path):
    scenario = yaml.safe_load((TOP / "scenarios/demo.yaml").read_text())
    scenario |= {"datasets": ["digits"], "methods": ["coop", "lamm"], "seeds": [1]}
    for method in scenario["methods"]:
        scenario["overrides"][method]["training"]["epochs"] = 8
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(scenario))
    soak = Soak([str(tmp_path / "short.yaml")], tmp_path, longest=8, random=random.Random(3))

    soak.round("two processes", kills=4, deadline=time.monotonic() + 60, whole=soak.whole())

    assert soak.mismatches == []
    assert soak.lost["two processes"]
