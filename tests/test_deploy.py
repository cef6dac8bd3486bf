"""Every file of deploy/ is accepted by the tool that will read it, and names commands and metrics that exist."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from api.metrics import Metrics
from jobs.cli.main import app
from recsys.settings import Settings
from tests.conftest import lacking

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def run(tool: str, *arguments: str | Path) -> str:
    """What a tool prints when it accepts its arguments; skipped where it is not installed."""
    path = shutil.which(tool) or shutil.which(str(Path(sys.executable).parent / tool))
    if path is None:
        lacking(f"needs {tool}")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def in_yaml(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_the_container_file() -> None:
    run("hadolint", DEPLOY / "Dockerfile")
    text = (DEPLOY / "Dockerfile").read_text()
    assert text.count("\nUSER 10001\n") == text.count("ENTRYPOINT")
    for copied in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split()), copied


def test_the_compose_file() -> None:
    compose_spec = pytest.importorskip("compose_spec")
    (content,) = in_yaml("compose.yaml")
    compose_spec.ComposeSpecification.model_validate(content)
    for name, service in content["services"].items():
        if name != "database":
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]


def test_the_kubernetes_objects() -> None:
    said = run("kubernetes-validate", "--strict", DEPLOY / "kubernetes.yaml")
    assert said.count("passed") == 4
    for container in containers():
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
    for container in containers():  # an erasure is noted, and a restore reads what was noted, wherever it runs
        assert {"name": "RECSYS_ERASURE_JOURNAL", "value": "/data/erasures"} in container["env"]
    serve = next(each for each in containers() if each["name"] == "serve")
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= serve.keys()


def test_the_units_of_systemd(tmp_path: Path) -> None:
    for unit in (DEPLOY / "systemd").iterdir():
        # The program is looked for where the test has one.
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/recsys/bin/recsys", "/bin/true"))
    assert run("systemd-analyze", "verify", *sorted(tmp_path.iterdir())).strip() == ""


def test_the_configuration_of_haproxy() -> None:
    run("haproxy", "-c", "-q", "-f", DEPLOY / "haproxy.cfg")


def test_the_location_of_nginx(tmp_path: Path) -> None:
    crossplane = pytest.importorskip("crossplane")
    (tmp_path / "nginx.conf").write_text(
        f"events {{}}\nhttp {{ server {{ listen 80; include {DEPLOY / 'nginx.conf'}; }} }}\n"
    )
    assert crossplane.parse(str(tmp_path / "nginx.conf"), strict=True)["errors"] == []


def test_the_alerts() -> None:
    run("promtool", "check", "rules", DEPLOY / "prometheus" / "alerts.yaml")


def test_alerts_and_board_use_metrics_that_exist() -> None:
    board = json.loads((DEPLOY / "grafana" / "recsys.json").read_text())
    (alerts,) = in_yaml("prometheus/alerts.yaml")
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    used = {name for each in expressions for name in re.findall(r"recsys_\w+", each)}
    known = {family.name for family in Metrics()._registry.collect()}
    assert used
    assert {re.sub(r"_(total|bucket)$", "", name) for name in used} <= known
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def containers() -> Iterator[dict[str, Any]]:
    for item in in_yaml("kubernetes.yaml"):
        template = item["spec"].get("template") or item["spec"].get("jobTemplate", {}).get("spec", {}).get("template")
        if template is not None:
            yield from template["spec"].get("initContainers", [])
            yield from template["spec"]["containers"]


def commands() -> list[list[str]]:
    """The arguments of `recsys` in all files."""
    found = [container["args"] for container in containers() if "args" in container]
    found += [each["command"] for each in in_yaml("compose.yaml")[0]["services"].values() if "command" in each]
    files = [DEPLOY / name for name in ("crontab", "nginx.conf", "kubernetes.yaml")]
    for path in [*(DEPLOY / "systemd").glob("*.service"), *files]:
        for line in path.read_text().splitlines():
            if match := re.search(r"""(?:bin/|&& |#   |exec )recsys (.*?)(?:['"]|>>|$)""", line):
                found.append(re.sub(r"\$\(.*?\)", "DAY", match.group(1)).split())
    return found


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_commands_and_their_options_exist(arguments: list[str]) -> None:
    command = typer.main.get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
    command.make_context(arguments[0], list(arguments[1:]))


def test_settings_exist() -> None:
    known = {f"RECSYS_{name.upper()}" for name in Settings.model_fields}
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert set(re.findall(r"\bRECSYS_[A-Z_]+", path.read_text())) <= known, path
