"""Running the ordinary commands."""

import os
import subprocess
import sys

from typer.testing import CliRunner

from jobs import cli
from rgals.errors import RgalsError

__all__ = ["SMALL", "planted_csv", "run", "run_alone"]

SMALL = ("--n-factors", "4", "--n-sweeps", "3", "--softmax-users", "10", "--alpha", "1", "--reg", "0.05")


def run(*arguments):
    """Run a command in this process; its own errors are raised here."""
    found = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def run_alone(*arguments, **variables):
    """Run a command as a process of its own, in which every warning is an error."""
    command = [sys.executable, "-W", "error", "-m", "jobs.cli", *map(str, arguments)]
    environment = {name: value for name, value in {**os.environ, **variables}.items() if value is not None}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def is_known(error):
    return isinstance(error, RgalsError)


def planted_csv(n_users=60, n_items=40):
    """Write interactions of two groups of users, each with its own half of the items."""
    lines = [
        f"u{user:03d},i{item:03d}"
        for user in range(n_users)
        for item in range(n_items)
        if (user + item) % 2 == 0 and (user * 7 + item * 5) % 3 == 0
    ]
    return ("user_id,item_id\n" + "\n".join(lines) + "\n").encode()
