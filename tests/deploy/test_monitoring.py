"""docker/monitoring.yml and the dashboard: nothing is open, and every metric that is shown exists."""

import json
import re

import pytest
import yaml

from services.recommender.metrics import Metrics
from tests.deploy.compose_file import REPOSITORY, load

FILE = REPOSITORY / "docker" / "monitoring.yml"
DASHBOARD = json.loads((REPOSITORY / "docker" / "grafana_dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def known_metrics() -> set[str]:
    text = Metrics().render()[0].decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    histograms = {
        name + end for name, kind in kinds.items() if kind == "histogram" for end in ("_bucket", "_sum", "_count")
    }
    return {*kinds, *histograms}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_dashboard_shows_metrics_that_the_service_has(expression: str) -> None:
    named = set(re.findall(r"rgals_[a-z_]+", expression))
    assert named
    assert named <= known_metrics()


def test_monitoring_is_published_on_this_machine_alone() -> None:
    services = load(path=FILE)["services"]
    assert [service["ports"] for service in services.values()] == [["127.0.0.1:9090:9090"], ["127.0.0.1:3000:3000"]]
    assert all(service["networks"] == ["front"] for service in services.values())
    assert all(re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"]) for service in services.values())


def test_prometheus_asks_the_api_with_a_key_from_a_file() -> None:
    document = load({"API_PORT": "8123"}, FILE)
    scrape = yaml.safe_load(document["configs"]["prometheus"]["content"])["scrape_configs"][0]
    assert scrape["static_configs"] == [{"targets": ["api:8123"]}]
    assert scrape["authorization"] == {"credentials_file": "/run/secrets/prometheus_key"}
    assert document["secrets"]["prometheus_key"] == {"file": "./secrets/prometheus_key"}


def test_the_parts_of_grafana_fit_together() -> None:
    configs = load(path=FILE)["configs"]
    (source,) = yaml.safe_load(configs["grafana_source"]["content"])["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert (REPOSITORY / configs["dashboard"]["file"]).is_file()
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
