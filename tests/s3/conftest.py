"""An S3 of our own: moto's server in a process beside the tests, on loopback, without any network."""

import itertools
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.fs as pafs
import pytest

KEY = "AKIATESTTESTTESTTEST"
SECRET = "a-secret-that-nobody-may-see"

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Store:
    """The server, and a filesystem over it that does not go through rgals."""

    port: int
    filesystem: pafs.S3FileSystem

    @property
    def options(self) -> str:
        """What a URI says to find the server without variables."""
        return f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"

    def new_bucket(self) -> str:
        name = f"bucket-{next(_NUMBERS)}"
        self.filesystem.create_dir(name)
        return name

    def keys(self, path: str) -> list[str]:
        selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.path.removeprefix(path + "/") for info in infos if info.type == pafs.FileType.File)

    def read(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def write(self, path: str, content: bytes) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(content)

    def ask_for_credentials(self, n_requests_before: float) -> None:
        """Let the server check keys and rights after some more requests."""
        body = str(n_requests_before).encode()
        address = f"http://127.0.0.1:{self.port}/moto-api/reset-auth"
        request = urllib.request.Request(address, data=body, headers={"Content-Type": "text/plain"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


@pytest.fixture(scope="package")
def store() -> Iterator[Store]:
    """Start the server, and point the variables that AWS defined at it."""
    command = [sys.executable, "-W", "ignore", "-c", _SERVER]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        filesystem = pafs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        yield Store(port, filesystem)
        assert server.stdin is not None
        server.stdin.close()
        server.wait(timeout=20)
