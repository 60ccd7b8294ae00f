"""The schema that editors are given accepts each configuration that is right, and knows every key."""

import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from funkenshield.config import Config
from funkenshield.config.json_schema import json_schema
from funkenshield.config.types import section_of
from unit.config.test_mistakes import MISTAKES
from unit.test_docs import PAGES

ROOT = Path(__file__).parents[3]
SCHEMA = json_schema()
FILES = sorted([*(ROOT / "contrib").glob("*.toml"), *(ROOT / "examples").glob("*.toml")])
ON_PAGES = [
    (page, example) for page in PAGES for example in re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(), re.S)
]
RIGHT = {str(file.relative_to(ROOT)): file.read_text() for file in FILES}
RIGHT |= {f"{page}[{number}]": example for number, (page, example) in enumerate(ON_PAGES)}


def mistakes_of(text):
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(tomllib.loads(text))]


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_accepted(text):
    assert mistakes_of(text) == []


def test_it_is_a_schema_and_has_each_key_with_its_description():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    left, known = [(Config, SCHEMA)], {Config}
    for section, schema in left:  # which grows meanwhile
        assert schema["properties"].keys() == {field.alias or name for name, field in section.model_fields.items()}
        for name, field in section.model_fields.items():
            assert schema["properties"][field.alias or name]["description"], f"{section}.{name}"
            below = section_of(field)
            if below and below not in known:
                known.add(below)
                left.append((below, SCHEMA["definitions"][below.__name__.removesuffix("Section")]))
    assert len(known) == len(SCHEMA["definitions"]) + 1


@pytest.mark.parametrize(
    "text",
    [
        "worker = 1", "workers = 256", 'workers = "2"', 'forward.policy = "fastest"', "cache.memory = 1",
        "groups = [{}]", "ttl.max = false", "upstreams = []", '[[rules]]\naction = "forwrd"',
        "[[rules]]\naction = { drop = true, ttl = {} }", '[[zones]]\nname = "a"\nttl.maxx = 1',
        'tls.server_name = "a"', "listen = 53", 'log = "debug"', 'listen = "localhost:53"', 'upstreams = "ns1.test"',
        'proxy_protocol_from = "192.0.2.0/x"',
    ],
)  # fmt: skip
def test_what_is_wrong_in_one_key_is_refused(text):
    assert mistakes_of(text)


def test_most_mistakes_of_newcomers_are_seen_by_their_editor():
    found = {text: bool(mistakes_of(text)) for text in MISTAKES if _can_be_shown(text)}
    assert len(found) > 80
    assert sum(found.values()) > len(found) / 2


def _can_be_shown(text):
    try:
        return bool(str(tomllib.loads(text)))
    except (RecursionError, ValueError):
        return False
