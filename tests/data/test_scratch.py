"""The scratch folder: gone after every exit, and what a killed run left is cleared away by the next."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from rgals.data import scratch
from rgals.data.ingest import ingest
from rgals.data.scratch import scratch_folder, whole_file
from rgals.data.storage import Folder
from rgals.errors import DataError, InputError

PAUSED = """
import signal, sys
from rgals.data.ingest import ingest
def pause(stage, done, total):
    if stage == sys.argv[3]:
        print("paused", flush=True)
        signal.pause()
ingest([sys.argv[1]], sys.argv[2], progress=pause, scratch=sys.argv[4] or None, overwrite=True)
"""


@contextmanager
def paused_ingest(source, output, stage="merge", parent=""):
    """A process in the middle of an ingest; killed without a chance to clean up, at the latest on leaving."""
    command = [sys.executable, "-c", PAUSED, str(source), str(output), stage, str(parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "paused\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id\n1,2\n1,3\n2,3\n")
    return path


def leave(folder, **change):
    """What a killed run of this machine leaves, or something a little different."""
    owner = {
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "output": str(folder / "d"),
        "staged": ".d.partial-1",
    }
    for name in (".d.partial-1", ".d.scratch-1"):
        (folder / name).mkdir()
    (folder / ".d.scratch-1" / "owner.json").write_text(json.dumps({**owner, **change}))


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize(
    ("stage", "is_elsewhere"), [("read", False), ("write", False), ("merge", True)], ids=["read", "write", "elsewhere"]
)
def test_what_a_killed_run_left_is_removed_by_the_next_to_the_same_output(tmp_path, source, stage, is_elsewhere):
    output, parent = tmp_path / "d", tmp_path / "tmp" if is_elsewhere else ""
    with paused_ingest(source, output, stage, parent):
        pass
    left = [*hidden(tmp_path), *(hidden(parent) if is_elsewhere else [])]
    assert sorted(name.rpartition("-")[0] for name in left) == [".d.partial", ".d.scratch"]
    ingest([source], tmp_path / "other", scratch=parent or None)
    assert [*hidden(tmp_path), *(hidden(parent) if is_elsewhere else [])] == left  # another output
    ingest([source], output, scratch=parent or None)
    assert hidden(tmp_path) == []
    assert not is_elsewhere or hidden(parent) == []


def test_what_belongs_to_a_run_that_lives_stays(tmp_path, source):
    output = tmp_path / "d"
    (tmp_path / ".d.partial-of-something-else").mkdir()
    with paused_ingest(source, output) as alive:
        of_the_living = hidden(tmp_path)
        with paused_ingest(source, output):
            assert len(hidden(tmp_path)) == 5
        ingest([source], output)
        assert hidden(tmp_path) == of_the_living
        assert alive.poll() is None
    ingest([source], output, overwrite=True)
    assert hidden(tmp_path) == [".d.partial-of-something-else"]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({}, []),
        ({"boot_id": "another machine"}, [".d.partial-1", ".d.scratch-1"]),
        ({"boot_id": None}, [".d.partial-1", ".d.scratch-1"]),
        ({"output": "/another/d"}, [".d.partial-1", ".d.scratch-1"]),
        ({"staged": "events.csv"}, [".d.partial-1"]),
        ({"staged": "../above"}, [".d.partial-1"]),
        ({"staged": ".d.partial-/../../above"}, [".d.partial-1"]),
        ({"staged": None}, [".d.partial-1"]),
        ({"staged": 7}, [".d.partial-1"]),
    ],
    ids=str,
)
def test_what_is_not_certainly_dead_and_ours_stays(tmp_path, source, change, left):
    above = tmp_path.parent / "above"
    above.mkdir(exist_ok=True)
    leave(tmp_path, **change)
    ingest([source], tmp_path / "d")
    assert hidden(tmp_path) == left
    assert source.exists()
    assert above.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_a_folder_whose_record_cannot_be_read_stays(tmp_path, source, content):
    leave(tmp_path)
    (tmp_path / ".d.scratch-1" / "owner.json").write_text(content)
    ingest([source], tmp_path / "d")
    assert hidden(tmp_path) == [".d.partial-1", ".d.scratch-1"]


def test_the_folder_is_private_and_gone_after_an_error(tmp_path):
    def fail():
        with scratch_folder(Folder.at(tmp_path / "a" / "d")) as work:
            assert work.path.parent == tmp_path / "a"
            assert work.path.stat().st_mode & 0o777 == 0o700
            (work.folder("spool") / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "a").iterdir()) == []


def test_names_with_wildcards_are_names(tmp_path, source):
    (tmp_path / ".[d].scratch-1").mkdir()
    ingest([source], tmp_path / "[d]")
    assert (tmp_path / ".[d].scratch-1").is_dir()  # without a lock nothing is known of it


def test_a_scratch_folder_is_a_local_path(tmp_path):
    with (
        pytest.raises(InputError, match="scratch: expected a path of this machine"),
        scratch_folder(Folder.at(tmp_path / "d"), "s3://bucket/scratch"),
    ):
        pass
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(DataError, match=r"cannot be written to .*--scratch"),
        scratch_folder(Folder.at(tmp_path / "d"), tmp_path / "file"),
    ):
        pass


def test_a_removal_waits_for_files_that_still_come(tmp_path, monkeypatch):
    """A worker may finish a file while the folder is being removed."""
    original, n_calls = scratch.shutil.rmtree, []

    def remove_and_come_back(path, **options):
        original(path, **options)
        n_calls.append(path)
        if len(n_calls) < 3:
            Path(path).mkdir()
            (Path(path) / "late").write_text("x")

    monkeypatch.setattr(scratch.shutil, "rmtree", remove_and_come_back)
    with scratch_folder(Folder.at(tmp_path / "d")):
        pass
    assert list(tmp_path.iterdir()) == []
    assert len(n_calls) == 3


def write_and(fail, path):
    with whole_file(path) as temporary:
        temporary.write_text("half")
        fail()


def interrupt():
    raise KeyboardInterrupt


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        first.write_text("same")
        second.write_text("same")
        assert not (tmp_path / "a").exists()
    with pytest.raises(KeyboardInterrupt):
        write_and(interrupt, tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        write_and(interrupt, tmp_path / "gone" / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "same"
