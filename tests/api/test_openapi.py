"""The OpenAPI document: whole, true (schemathesis asks the server what it promises), and enough to make a client of."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from recsys.database.runs import recorded
from tests.api.conftest import serving, url_of
from tests.conftest import add_known_model, lacking

HERE = Path(__file__).parent
GENERATOR = HERE.parents[1] / ".venv-client" / "bin"


def test_it_describes_every_endpoint_with_examples(reader: httpx.Client) -> None:
    document = reader.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/users/{user_id}/recommendations",
        "/v1/users/{user_id}",
        "/v1/users/{user_id}/predictions",
        "/v1/users/{user_id}/ratings",
        "/v1/users/{user_id}/ratings/{item_id}",
        "/v1/recommendations",
        "/v1/items/{item_id}/similar",
        "/v1/items/{item_id}",
        "/v1/items/similar",
        "/v1/categories",
        "/v1/items",
        "/v1/popular",
        "/v1/ratings",
        "/v1/models",
        "/v1/models/{number}",
        "/v1/models/{number}/publish",
        "/v1/models/rollback",
        "/v1/runs",
        "/v1/runs/{number}",
        "/health/live",
        "/health/ready",
    }
    assert document["components"]["schemas"]["ListedItem"]["properties"]["title"]["examples"] == ["Star Wars (1977)"]
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["description"]
            for status, response in operation["responses"].items():
                assert status < "400" or set(response["content"]) == {"application/problem+json"}


SHORT = ("--phases", "fuzzing", "--max-examples", "2")
LONG = ("--max-examples", "30")
"""All phases: examples, values that are just allowed or just not, random requests, requests that follow one another."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("options", "n_cases"),
    [
        pytest.param(SHORT, 30, id="short"),
        pytest.param(LONG, 1000, id="long", marks=pytest.mark.long),
    ],
)
def test_schemathesis_finds_nothing(
    known_engine: Engine, tmp_path: Path, options: tuple[str, ...], n_cases: int
) -> None:
    """Requests, valid and not, drawn with a fixed seed, and all checks of the answers."""
    common = ["--checks", "all", "--generation-database", "none", "--no-color", "--seed", "1"]
    with serving(url_of(known_engine)) as client:
        # What the document has as examples is there.
        for item_id in ("50", "181"):
            assert client.put(f"/v1/items/{item_id}", json={"categories": ["Action"]}).status_code == 201
        rating = {"user_id": "196", "item_id": "181", "rating": 4}
        assert client.post("/v1/ratings", json={"ratings": [rating]}).status_code == 200
        command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")]
        done = subprocess.run(
            [*command, "run", f"{client.base_url}/openapi.json", *common, *options],
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": str(HERE / "schemathesis_hooks.py")},
            capture_output=True,
            text=True,
            check=False,
        )
    (tmp_path / "found.txt").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    generated, passed = map(int, re.findall(r"(\d+) generated, (\d+) passed", done.stdout)[0])
    assert generated == passed
    assert generated >= n_cases
    assert "Tested: 23" in done.stdout


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_client_is_made_of_it_and_works(known_engine: Engine, tmp_path: Path) -> None:
    if not (GENERATOR / "openapi-python-client").exists():
        lacking("needs openapi-python-client in an environment of its own: see tests/api/client-generator.txt")
    add_known_model(known_engine, "ranking", sign=-1.0)
    with recorded(known_engine, "nightly") as run, run.step("load"):
        pass
    config = tmp_path / "config.yml"
    config.write_text(json.dumps({"package_name_override": "recsys_client", "post_hooks": []}))
    with serving(url_of(known_engine)) as client:
        made = tmp_path / "made"
        command = [str(GENERATOR / "openapi-python-client"), "generate", "--config", str(config), "--meta", "none"]
        command += ["--url", f"{client.base_url}/openapi.json", "--output-path", str(made / "recsys_client")]
        made.mkdir()
        generated = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert generated.returncode == 0, generated.stdout + generated.stderr
        assert "WARNING" not in generated.stdout + generated.stderr
        asked = subprocess.run(
            [str(GENERATOR / "python"), str(HERE / "client_of_openapi.py"), str(made), str(client.base_url)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert asked.stdout == "asked\n", asked.stderr
