"""The command line as a whole."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from jobs import cli
from rgals.errors import InputError, RgalsError


def test_help_lists_every_command() -> None:
    output = CliRunner().invoke(cli.app, ["--help"]).output
    for command in cli.COMMANDS:
        assert f" {command} " in output


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_its_options(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--help" in result.output
    assert len(result.output.splitlines()) > 8


def test_a_misspelled_command_is_told_what_it_might_have_been() -> None:
    result = CliRunner().invoke(cli.app, ["trian"])
    assert result.exit_code == 2
    assert "Did you mean 'train'?" in result.output


def test_a_service_does_not_wait_for_the_packages_of_other_commands() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from jobs import cli; "
        "result = CliRunner().invoke(cli.app, ['serve', '--help']); assert result.exit_code == 0; "
        "import services.recommender.server, services.recommender.app; "
        "print(sorted({'matplotlib', 'scipy.stats', 'implicit', 'ray', 'optuna'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def raise_from_app(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)


def test_a_known_error_is_one_line_on_standard_error_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_from_app(monkeypatch, InputError("n_factors: expected at least 1, found 0"))
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "rgals: error: n_factors: expected at least 1, found 0\n"


def test_an_unknown_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from_app(monkeypatch, KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        cli.main()


def test_a_closed_pipe_is_not_an_error_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_from_app(monkeypatch, BrokenPipeError())
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == ""


def test_every_error_of_the_tree_is_an_rgals_error() -> None:
    module = sys.modules["rgals.errors"]
    for name in module.__all__:
        assert issubclass(getattr(module, name), RgalsError)
