"""What a local Ray needs around it."""

import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from rgals.errors import CapacityError
from rgals.execution import local_ray
from rgals.execution.local_ray import PrivateSession, choose_object_store_bytes, python_path

MIB = 2**20


class TestPrivateSession:
    def test_the_token_is_random_private_and_named_by_the_environment(self) -> None:
        environment = {"RAY_AUTH_TOKEN": "mine", "RAY_ADDRESS": "head:6379", "HOME": "/home"}
        session, other = PrivateSession(environment), PrivateSession({})
        try:
            token = Path(environment["RAY_AUTH_TOKEN_PATH"])
            assert token.parent == session.folder
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
            assert stat.S_IMODE(session.folder.stat().st_mode) == 0o700
            assert len(token.read_text()) == 64
            assert token.read_text() != (other.folder / "token").read_text()
            assert environment["RAY_AUTH_MODE"] == "token"
            assert "RAY_AUTH_TOKEN" not in environment
            assert "RAY_ADDRESS" not in environment
            assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
        finally:
            session.remove()
            other.remove()

    def test_everything_is_put_back(self) -> None:
        before = {"RAY_AUTH_TOKEN": "mine", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": "/there", "HOME": "/home"}
        environment = dict(before)
        session = PrivateSession(environment)
        session.restore_environment()
        session.restore_environment()
        session.remove()
        session.remove()
        assert environment == before
        assert not session.folder.exists()

    def test_names_of_sockets_stay_short_where_the_temporary_folder_has_a_long_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        long = tmp_path / ("long" * 20)
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        session = PrivateSession({})
        session.remove()
        assert len(str(session.folder)) < 40


class TestPythonPath:
    def test_workers_look_where_this_process_looks_but_for_what_python_brings(self, tmp_path: Path) -> None:
        own, given = tmp_path / "own", tmp_path / "given"
        own.mkdir()
        search = [str(own), str(tmp_path / "missing"), *(path for path in sys.path if path.startswith(sys.prefix))]
        assert python_path([*search, sys.base_prefix + "/lib"], None) == str(own)
        assert python_path(search, f"{given}{os.pathsep}{own}") == os.pathsep.join([str(own), str(given)])

    def test_the_empty_entry_is_the_folder_of_this_process(self) -> None:
        assert python_path([""], None) == str(Path.cwd())

    def test_nothing_is_nothing(self) -> None:
        assert python_path([], None) is None


class TestObjectStore:
    def test_what_was_asked_for_is_taken(self) -> None:
        assert choose_object_store_bytes(100, 10**15, available=0) == 100

    @pytest.mark.parametrize(
        ("needed", "chosen"), [(0, 256 * MIB), (100 * MIB, 256 * MIB), (400 * MIB, 500 * MIB), (900 * MIB, 1000 * MIB)]
    )
    def test_a_quarter_more_than_is_needed_within_bounds(self, needed: int, chosen: int) -> None:
        assert choose_object_store_bytes(None, needed, available=2000 * MIB) == chosen

    def test_what_does_not_fit_is_refused_with_numbers(self) -> None:
        with pytest.raises(CapacityError, match=r"expected room for 1.50 GB, found 1.00 GB, half of the free"):
            choose_object_store_bytes(None, 1_500_000_000, available=2_000_000_000)

    def test_the_machine_is_asked(self) -> None:
        assert 0 < local_ray.free_shared_memory() < 2**50
