"""Prefect's UI and the report in a real browser, after a run of the tiny profile.

With WORLD2ACT_WRITE_DOCS=FOLDER the pictures go to docs/, and the report pictured is the one of the run in FOLDER.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from playwright.sync_api import Page, sync_playwright

from flows.serve import running_server, server_environment
from tests.helpers.clone import Clone
from tests.helpers.paths import ROOT
from tests.helpers.service import free_port

STAGES = ("demos", "validate_demos", "world_model", "post_train", "evaluate", "report")
BROKEN = "[...document.images].filter(each => !(each.complete && each.naturalWidth)).map(each => each.src.slice(0, 80))"


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": 1500, "height": 1100})
        browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return ROOT / "docs" if "WORLD2ACT_WRITE_DOCS" in os.environ else tmp_path


@pytest.fixture
def server(tiny_run: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on a copy of the database that the run left. Returns: its address."""
    shutil.copytree(tiny_run.root.parent / "prefect", tmp_path / "prefect")
    port = free_port()
    environment = server_environment(os.environ | {"PREFECT_HOME": str(tmp_path / "prefect")}, "127.0.0.1", port)
    environment["PREFECT_HOME"] = str(tmp_path / "prefect")
    with running_server(environment, "127.0.0.1", port):
        yield f"http://127.0.0.1:{port}"


def test_run_shows_its_stages_and_what_they_made(server: str, page: Page, pictures: Path) -> None:
    runs = httpx.post(f"{server}/api/flow_runs/filter", json={"sort": "START_TIME_ASC"}).json()
    run = next(each for each in runs if each["state_name"] == "Completed")
    page.goto(f"{server}/runs/flow-run/{run['id']}")
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("world2act-pipeline").first.wait_for()
    page.wait_for_timeout(3000)  # the graph is drawn on a canvas, which cannot be asked whether it is done
    page.screenshot(path=pictures / "prefect-ui.png")
    seen = page.inner_text("body")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert run["name"] in seen and "Completed" in seen and f"{len(stages)} Task runs" in seen
    assert {"demos-gate", "world-model-metrics", "world-model-picture"} <= set(seen.split())
    page.get_by_text("Task Runs", exact=True).first.click()
    page.get_by_text("validate_report", exact=True).or_(page.get_by_text("report", exact=True)).first.wait_for()
    seen = page.inner_text("body")
    assert all(stage in seen for stage in STAGES) and "Ran" in seen

    everything = httpx.post(f"{server}/api/artifacts/filter", json={}).json()
    artifacts = [each for each in everything if each["flow_run_id"] == run["id"]]
    picture = next(each for each in artifacts if each["key"] == "world-model-picture")
    page.goto(f"{server}/artifacts/artifact/{picture['id']}")
    page.locator("img").first.wait_for()
    assert page.evaluate(BROKEN) == []
    assert all(len(str(each["data"])) < 200_000 for each in artifacts), "artifacts are small"
    table = next(each for each in artifacts if each["key"] == "world2act-pipeline")
    page.goto(f"{server}/artifacts/artifact/{table['id']}")
    page.get_by_text("post_train").first.wait_for()
    assert page.get_by_role("cell", name="Ran").count() >= 11


@pytest.fixture
def run(tiny_run: Clone) -> Clone:
    """The run to picture."""
    return Clone(Path(os.environ.get("WORLD2ACT_WRITE_DOCS", tiny_run.root)))


def open_file(page: Page, path: Path, picture: Path) -> str:
    """Open a page of ours from the disk, and picture it. Returns: its text."""
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.resolve().as_uri())
    page.wait_for_timeout(1000)
    page.screenshot(path=picture)
    assert page.evaluate(BROKEN) == []
    assert not [url for url in requests if url.startswith("http")], "it needs no network"
    return page.inner_text("body")


def test_report_opens_without_a_server(run: Clone, page: Page, pictures: Path) -> None:
    seen = open_file(page, run.root / "reports/report.html", pictures / "report.png")
    assert all(stage in seen for stage in ("demos", "world_model", "post_train", "evaluate"))


def test_preview_of_skills_opens_without_a_server(run: Clone, page: Page, pictures: Path, tmp_path: Path) -> None:
    run.must("world2act", "skills", "preview", "--out", str(tmp_path / "skills.html"))
    seen = open_file(page, tmp_path / "skills.html", pictures / "skills.png")
    assert "coffee-push" in seen and "plate-slide" in seen and "0.869" in seen
