"""The counts are in the engine, so that every door has them."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.bolt.project import Project
from tests.observe.test_prometheus import judged, sample

API = """
from tollway import observe
from tollway.bolt import BoltAPI, PlainText, rate_limit
from tollway.observe import prometheus

observe.start()
api = BoltAPI()
entered = 0


@api.get("/limited")
@rate_limit("3/h", key="ip", name="bolt")
async def limited():
    global entered
    entered += 1
    return {"entered": entered}


@api.get("/entered")
async def how_often():
    return {"entered": entered}


@api.get("/metrics")
async def metrics():
    return PlainText(prometheus.text())
"""


def test_what_bolt_refuses_before_python_is_counted(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.write("shop/api.py", API)
    with project.serve() as served, httpx.Client(base_url=served.url) as client:
        codes = [client.get("/limited").status_code for _ in range(10)]
        assert codes == [200] * 3 + [429] * 7
        assert client.get("/entered").json() == {"entered": 3}
        text = client.get("/metrics").text
    judged(text)
    start = 'tollway_checks_total{policy="bolt",outcome='
    assert sample(text, start + '"allowed"}') == 3
    assert sample(text, start + '"refused"}') == 7
