"""Show that the API's description is right: by a validator, and against the commands that there are."""

import inspect
from typing import Literal

import pytest

from funkenshield.admin.commands import COMMANDS
from funkenshield.web import api


def test_the_description_is_valid():
    validator = pytest.importorskip("openapi_spec_validator", reason="it is one of the test group's packages")
    validator.validate(api.describe(COMMANDS))


def test_each_command_has_a_path_and_is_told_in_a_sentence():
    paths = api.describe(COMMANDS)["paths"]
    for name in COMMANDS.keys() - api.HIDDEN:
        (method, told), *more = paths[f"/api/{name.replace(' ', '/')}"].items()
        assert not more
        assert method == ("get" if name in api.READING else "post")
        assert told["summary"] == (api.READING | api.CHANGING)[name]
        assert told["security"] == [*([{}] if name in api.READING else []), {"token": []}]
    assert len({told["operationId"] for each in paths.values() for told in each.values()}) == len(paths)
    assert "/api/advance" not in paths


def test_what_a_command_takes_is_read_from_its_signature():
    def steer(shield, *, name: str, seconds: float, how: Literal["a", "b"] = "a", only: list[int] | None = None):
        raise AssertionError(inspect.currentframe())

    body = api.describe({"steer it": steer})["paths"]["/api/steer/it"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "seconds": {"type": "number"},
            "how": {"type": "string", "enum": ["a", "b"]},
            "only": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]},
        },
        "additionalProperties": False,
        "required": ["name", "seconds"],
    }
