"""An explanation in lines, as people read it: the steps that a question takes, and where they lead."""

from collections.abc import Iterator, Mapping
from typing import Any


def lines_of(response: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a response to `explain`; it may be of another version than this."""
    for step in response["steps"]:
        yield f"{step['step']:<10}{step['text']}"
        for each in step.get("rules", []):
            yield f"{'':<12}{each['rule']}: {each['verdict']}"
            for condition in each["conditions"]:
                yield f"{'':<14}{'yes' if condition['held'] else 'no':<5}{condition['condition']}"
            if each["verdict"] == "matched":
                yield f"{'':<14}->   {each['action']}"
        for each in step.get("upstreams", []):
            yield f"{'':<12}{each['upstream']} ({each['state']}): {each['why']}"
    more = [response[key] for key in ("rcode", "upstream") if key in response]
    more += ["TC=1"] if response.get("truncated") else []
    yield f"{'=>':<10}{' '.join((response['outcome'], *more))}: {response['why']}"
    if "rrl" in response:
        yield f"{'':<10}{response['rrl']}"
