"""A full disk and a read-only one: one line; when there is room again, the same command ends with the same bytes."""

import shutil
import subprocess

import pytest
import toy
import yaml
from soak_kill import differences
from test_bad_input import called

from lamm_cl.cli import doors, main
from lamm_cl.data import catalogue
from lamm_cl.reports.derived import write_tables


def mount(*words: object) -> bool:
    try:
        return subprocess.run(["mount", *map(str, words)], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path):
    """A file system of 512 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", place):
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`lamm-cl run` of two toy runs -> exit status, what was said on stderr; tables without figures."""
    monkeypatch.setattr(doors, "train", toy.train)
    monkeypatch.setattr(catalogue, "load", lambda *_: toy.dataset())
    monkeypatch.setattr(main.run, "_derive", lambda scenario, folder, *_: bool(write_tables(folder)) - 1)
    facts = toy.scenario(datasets=["digits"], methods=["coop", "lamm"]).model_dump(mode="json")
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(facts))
    words = ["run", tmp_path / "toy.yaml", "--cache", tmp_path / "cache", "--device", "cpu", "--save-every", 0]
    return lambda results: called(*words, "--results", results)


def fill(disk, free: int) -> None:
    """Leave `free` bytes."""
    (disk / "filler").unlink(missing_ok=True)
    (disk / "filler").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free)))


def test_a_full_disk_is_one_line_and_with_room_again_the_end_is_the_same(disk, run, tmp_path):
    """With a little more room each time, so that another write is the first that fails."""
    run(tmp_path / "whole")
    refused = []
    for free in range(0, 200_000, 16_384):
        fill(disk, free)
        status, said = run(disk / "results")
        if status != 0:
            assert said.count("\n") == said.count("No space left on device") + (status == 1), said  # 1: one run was finished
            assert "Traceback" not in said and not [path for path in disk.rglob(".*")]
            refused.append(free)
    (disk / "filler").unlink()

    assert run(disk / "results")[0] == 0
    assert len(refused) > 2
    assert differences(tmp_path / "whole", disk / "results") == []


def test_a_read_only_disk_is_one_line_and_when_it_can_be_written_the_end_is_the_same(disk, run, tmp_path):
    run(tmp_path / "whole")
    assert mount("-o", "remount,ro", disk)
    assert run(disk / "results") == (2, f"lamm-cl: {disk}: no permission to write; choose another --results folder\n")

    assert mount("-o", "remount,rw", disk)
    assert run(disk / "results")[0] == 0
    assert differences(tmp_path / "whole", disk / "results") == []
