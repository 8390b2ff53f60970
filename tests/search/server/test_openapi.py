"""Requests made up from the OpenAPI document, as schemathesis does: whatever comes, the service does not fail (S17)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from babelclip.search.server.tokens import make_key
from tests.search.serving import make_service, running

schemathesis = pytest.importorskip("schemathesis")
# For each route; BABELCLIP_FUZZ=300 looks longer.
EXAMPLES = int(os.environ.get("BABELCLIP_FUZZ", "4"))


def test_no_request_makes_the_service_fail(clip, own_collection, tmp_path):
    token = make_key(tmp_path / "keys", "boss", ("admin",))
    service = make_service(own_collection, clip, tmp_path / "keys", token_file=str(tmp_path / "keys"))
    headers, asked, answers = {"Authorization": f"Bearer {token}"}, [], {}
    some = next(iter(service.collections["shapes"].current().scan()))["id"].to_pylist()
    with running(service) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json", headers=headers)
        for found in schema.get_all_operations():
            operation = found.ok()
            asked.append(operation.label)

            @seed(8)
            @settings(
                max_examples=EXAMPLES, database=None, deadline=None, phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def ask(case) -> None:
                # Most go to what is there; names that are not are soon told.
                turn = sum(answers.values())
                if turn % 4:
                    names = {"name": "shapes", "item": some[turn % len(some)]}
                    case.path_parameters = {
                        name: names.get(name, value) for name, value in case.path_parameters.items()
                    }
                    if isinstance(case.body, dict) and "indice_name" in case.body:
                        case.body["indice_name"] = "shapes"
                answer = case.call(headers=headers, timeout=30)
                key = (case.operation.label, answer.status_code)
                answers[key] = answers.get(key, 0) + 1
                assert answer.status_code < 500 or answer.json()["code"] == "busy", (
                    case.as_curl_command(),
                    answer.text,
                )
                if answer.status_code >= 400:
                    assert answer.headers["content-type"] == ["application/problem+json"]

            ask()
    if "BABELCLIP_FUZZ_OUT" in os.environ:
        told = {f"{label} {status}": number for (label, status), number in sorted(answers.items())}
        Path(os.environ["BABELCLIP_FUZZ_OUT"]).write_text(json.dumps(told, indent=1))
    assert len(asked) >= 17
    assert {"POST /knn-service", "POST /v1/collections/{name}/search", "DELETE /v1/collections/{name}/items"} <= set(
        asked
    )
