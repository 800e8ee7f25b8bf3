"""The JSON Schema of scenario files, made from the models."""

from __future__ import annotations

from typing import Any

from harness.scenario.schema import Scenario

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def make_json_schema() -> dict[str, Any]:
    """Return the schema. What single keys cannot tell, only `cpumap-lab check` finds."""
    schema = Scenario.model_json_schema()
    schema.pop("required", None)  # the name is the file's, all else may be in another file
    schema["anyOf"] = [{"required": ["extends"]}, {"required": ["entries", "traffic"]}]
    return {"$schema": DIALECT} | schema
