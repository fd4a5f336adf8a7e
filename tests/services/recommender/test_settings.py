"""What a service is told: every problem at once, and nothing ignored."""

import pytest

from rgals.errors import InputError
from services.recommender.settings import PREFIX, Settings, is_loopback, read_settings


def read(**values: str) -> Settings:
    return read_settings({PREFIX + name.upper(): value for name, value in values.items()})


def test_settings_come_from_the_environment():
    settings = read(
        registry="s3://bucket/registry", port="9000", cors_origins="https://a.example, https://b.example:8443"
    )
    assert (settings.registry, settings.port) == ("s3://bucket/registry", 9000)
    assert settings.cors_origins == ("https://a.example", "https://b.example:8443")
    assert settings.host == "127.0.0.1"


def test_other_variables_are_nobodys_business():
    assert read_settings({"PATH": "/bin", "RGALS_DATA": "x", PREFIX + "MODEL": "m"}).model == "m"


def test_an_empty_variable_is_not_set():
    assert read(model="m", threads="").threads is None


def test_options_count_before_the_environment():
    settings = read_settings({PREFIX + "MODEL": "m", PREFIX + "PORT": "1"}, port=2, host=None)
    assert (settings.port, settings.host) == (2, "127.0.0.1")


def test_every_problem_is_listed_at_once():
    with pytest.raises(InputError) as caught:
        read(port="70000", queue_size="none", host="0.0.0.0", cors_origins="*", pol_s="3", api_key_file="x")
    text = str(caught.value)
    for part in (
        "_PORT: ",
        "_QUEUE_SIZE: ",
        "_HOST: ",
        "_CORS_ORIGINS: ",
        "_POL_S: unknown; did you mean",
        "_REGISTRY",
    ):
        assert part in text
    assert "did you mean RGALS_SERVICE_API_KEYS_FILE?" in text
    assert "have 7 problem(s)" in text


@pytest.mark.parametrize("values", [{}, {"registry": "r", "model": "m"}])
def test_a_registry_or_a_model_is_needed_and_not_both(values):
    with pytest.raises(InputError, match="expected one of"):
        read(**values)


def test_other_addresses_than_loopback_need_keys(tmp_path):
    with pytest.raises(InputError, match="not loopback"):
        read(model="m", host="192.0.2.1")
    keys = tmp_path / "keys"
    keys.touch()
    assert read(model="m", host="192.0.2.1", api_keys_file=str(keys)).host == "192.0.2.1"
    with pytest.raises(InputError, match="is not a file"):
        read(model="m", api_keys_file=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False),
     ("::", False), ("example.org", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_is_told_apart(host, expected):
    assert is_loopback(host) is expected
