"""The progress display: a bar on a terminal, sparse lines elsewhere."""

import io

import pytest

from jobs import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_appears_at_most_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 1.0, 6.0, 6.0, 7.0, 12.0, 12.0])
    report = console._lines("generating", "", lambda: next(now))
    report(1_000, 4_000)  # after one second
    report(2_000, 4_000)  # after six
    report(3_000, 4_000)  # one second later
    report(4_000, None)
    assert capsys.readouterr().err.splitlines() == ["generating: 2,000 of 4,000 (50%)", "generating: 4,000"]


def test_short_work_prints_nothing_into_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bar("loading", counts_bytes=True) as report:
        report(10, 20)
    assert capsys.readouterr().err == ""


def test_an_empty_total_does_not_divide_by_zero(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 6.0, 6.0])
    console._lines("loading", "bytes", lambda: next(now))(0, 0)
    assert capsys.readouterr().err == "loading: 0 of 0 (0%) bytes\n"


@pytest.mark.parametrize("counts_bytes", [False, True])
def test_on_a_terminal_there_is_a_bar_with_the_description(monkeypatch: pytest.MonkeyPatch, counts_bytes: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress_bar("generating", counts_bytes=counts_bytes) as report:
        report(10, 20)
        report(20, 20)
    assert "generating" in terminal.getvalue()
