"""Checks of ports, of who listens where and of Ray's token."""

import socket

import pytest

from rgals.execution import doctor_network as network
from rgals.execution.doctor_network import Listener

RAY = "/venv/site-packages/ray"
DASHBOARD = f"/venv/bin/python {RAY}/dashboard/dashboard.py --host=0.0.0.0"
GCS = f"{RAY}/core/src/ray/gcs/gcs_server --log_dir=/nowhere"
TOKEN = "0123456789abcdef" * 4

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def socket_line(address, port, inode, state="0A"):
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 0:0 00:00000000 00000000 0 0 {inode} 1 0 100 0 0 10 0\n"


def process(root, number, inode, command, variables=()):
    folder = root / "proc" / str(number)
    (folder / "fd").mkdir(parents=True)
    (folder / "fd" / "3").symlink_to(f"socket:[{inode}]")
    (folder / "cmdline").write_bytes(b"\0".join(word.encode() for word in command.split(" ")) + b"\0")
    (folder / "environ").write_bytes(b"\0".join(variable.encode() for variable in variables))


def test_listeners_are_read_with_their_processes(tmp_path):
    tcp = tmp_path / "proc" / "net"
    tcp.mkdir(parents=True)
    (tcp / "tcp").write_text(
        HEADER
        + socket_line("0100007F", 8265, 11)
        + socket_line("00000000", 6379, 12)
        + socket_line("0100007F", 999, 13, state="01")
        + socket_line("00000000", 52365, 16)
    )
    (tcp / "tcp6").write_text(
        HEADER
        + socket_line("00000000000000000000000001000000", 70, 14)
        + socket_line("0000000000000000FFFF00000100007F", 80, 15)
    )
    process(tmp_path, 100, 11, DASHBOARD, ["RAY_AUTH_MODE=token", "SECRET=hidden"])
    process(tmp_path, 101, 12, GCS, ["NOT_RAY_AUTH_MODE=token"])
    process(tmp_path, 102, 16, "ray::DashboardAgent", ["s", "gone"])
    (tmp_path / "proc" / "103").mkdir()
    assert network.read_listeners(tmp_path) == (
        Listener("::1", 70),
        Listener("127.0.0.1", 80),
        Listener("0.0.0.0", 6379, GCS, has_token=False),
        Listener("127.0.0.1", 8265, DASHBOARD, has_token=True),
        Listener("0.0.0.0", 52365, "ray::DashboardAgent", has_token=None),
    )


def test_a_system_without_ipv6_is_read_too(tmp_path):
    (tmp_path / "proc" / "net").mkdir(parents=True)
    (tmp_path / "proc" / "net" / "tcp").write_text(HEADER)
    assert network.read_listeners(tmp_path) == ()


def test_a_listener_of_this_process_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [listener for listener in network.read_listeners() if listener.port == port]
        assert [(listener.address, listener.is_loopback, listener.is_ray) for listener in found] == [
            ("127.0.0.1", True, False)
        ]
        assert "python" in found[0].command
    assert port not in {listener.port for listener in network.read_listeners()}


def test_free_ports_are_said():
    finding = network.check_ports([Listener("127.0.0.1", 22)])
    assert finding.status == "ok"
    assert finding.found == "6379 (cluster) free, 8265 (dashboard and jobs) free, 10001 (client) free"


def test_ports_of_ray_are_no_fault():
    finding = network.check_ports([Listener("0.0.0.0", 6379, GCS), Listener("127.0.0.1", 8265, DASHBOARD)])
    assert finding.status == "ok"
    assert "6379 (cluster) taken by Ray" in finding.found
    assert "8265 (dashboard and jobs) taken by Ray" in finding.found


@pytest.mark.parametrize("command", ["", "/usr/bin/redis-server *:6379", "vi /home/a/ray/notes"])
def test_a_port_of_another_program_is_a_warning(command):
    finding = network.check_ports([Listener("127.0.0.1", 6379, command)])
    assert finding.status == "warning"
    assert "6379 (cluster) taken by another program" in finding.found
    assert "--port" in finding.advice


@pytest.mark.parametrize(
    ("listeners", "status"),
    [
        ([], "ok"),
        ([Listener("0.0.0.0", 22, "sshd")], "ok"),
        ([Listener("127.0.0.1", 8265, DASHBOARD), Listener("::1", 6379, GCS)], "ok"),
        ([Listener("0.0.0.0", 8265, DASHBOARD)], "problem"),
        ([Listener("192.0.2.1", 8265, DASHBOARD, has_token=True)], "problem"),
        ([Listener("::", 6379, GCS, has_token=False)], "problem"),
        ([Listener("192.0.2.1", 52365, "ray::DashboardAgent"), Listener("::", 6379, GCS, has_token=False)], "problem"),
        ([Listener("192.0.2.1", 52365, "ray::DashboardAgent"), Listener("::", 6379, GCS, has_token=True)], "ok"),
        ([Listener("192.0.2.1", 52365, "ray::DashboardAgent")], "warning"),
        ([Listener("::", 6379, GCS, has_token=True), Listener("127.0.0.1", 8265, DASHBOARD, has_token=True)], "ok"),
    ],
)
def test_a_ray_that_others_reach(listeners, status):
    finding = network.check_exposure(listeners)
    assert (finding.status, bool(finding.advice)) == (status, status != "ok")


def test_an_open_dashboard_is_named_before_anything_else():
    listeners = [Listener("0.0.0.0", 8265, DASHBOARD), Listener("::", 6379, GCS)]
    finding = network.check_exposure(listeners)
    assert "0.0.0.0:8265" in finding.found
    assert "run code" in finding.found
    assert "--dashboard-host 127.0.0.1" in finding.advice


@pytest.mark.parametrize(
    ("options", "port", "expected"),
    [
        ("--port=8265 --port-retries=50", 8265, "problem"),
        ("--port=8265 --port-retries=50", 8270, "problem"),
        ("--port=8265 --port-retries=0", 8266, "ok"),
        ("--port=8265 --port-retries=50", 44227, "ok"),
        ("--port-retries=0", 8265, "problem"),
    ],
)
def test_the_metrics_of_a_dashboard_run_no_code(options, port, expected):
    dashboard = Listener("0.0.0.0", port, f"{DASHBOARD} {options}", has_token=True)
    assert network.check_exposure([dashboard]).status == expected


def test_many_places_are_counted():
    finding = network.check_exposure([Listener("::", 7000 + port, GCS) for port in range(6)])
    assert "[::]:7000, [::]:7001, [::]:7002, [::]:7003 and 2 more" in finding.found


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


def test_a_token_that_only_its_owner_reads(tmp_path, token_file):
    finding = network.check_token({"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)})
    assert finding.status == "ok"
    named = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file), "HOME": "/nowhere"}
    assert network.check_token(named).status == "ok"
    assert network.check_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "HOME": "/nowhere"}).status == "ok"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_that_others_read_is_a_problem(tmp_path, token_file, mode):
    token_file.chmod(mode)
    finding = network.check_token({"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)})
    assert finding.status == "problem"
    assert f"chmod 600 {token_file}" in finding.advice
    assert TOKEN not in finding.found + finding.advice


@pytest.mark.parametrize("text", ["", "secret"])
def test_a_short_token_is_a_problem(tmp_path, token_file, text):
    token_file.write_text(text)
    finding = network.check_token({"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)})
    assert finding.status == "problem"
    assert "secret" not in finding.found


def test_a_short_token_in_the_environment_is_a_problem():
    finding = network.check_token({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "hunter2"})
    assert finding.status == "problem"
    assert "hunter2" not in finding.found + finding.advice


def test_without_a_token_there_is_a_warning(tmp_path):
    for environment in ({"HOME": str(tmp_path)}, {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}):
        finding = network.check_token(environment)
        assert finding.status == "warning"
        assert "--generate" in finding.advice


def test_a_mode_that_is_off_or_not_set_is_a_warning(tmp_path, token_file):
    off = network.check_token({"HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"})
    unset = network.check_token({"HOME": str(tmp_path)})
    assert (off.status, unset.status) == ("warning", "warning")
    assert "RAY_AUTH_MODE=disabled" in off.found
    assert "not set" in unset.found
    assert "RAY_AUTH_MODE=token" in off.advice
    assert "RAY_AUTH_MODE=token" in unset.advice
