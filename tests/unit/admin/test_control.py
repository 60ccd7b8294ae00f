"""Show that each request on the control socket gets its response, whatever goes wrong with it."""

import asyncio
import json

import pytest

from funkenshield.admin import control
from funkenshield.errors import FunkenShieldError


async def respond(path, handle, *requests):
    """Return the responses to requests over one connection."""
    serving = await control.serve(control.bind(path), handle)
    reader, writer = await asyncio.open_unix_connection(path)
    responses = []
    for request in requests:
        writer.write(json.dumps(request).encode() + b"\n")
        responses.append(json.loads(await asyncio.wait_for(reader.readline(), 5) or b"null"))
    writer.close()
    serving.close()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    return responses


@pytest.mark.parametrize(
    ("error", "told", "is_logged"),
    [
        (FunkenShieldError("no such name"), "no such name", False),
        (ValueError("no number"), "no number", False),
        (OSError(28, "No space left on device"), "internal error: OSError(28, 'No space left on device')", True),
        (OverflowError("too large"), "internal error: OverflowError('too large')", True),
        (ZeroDivisionError("zero"), "internal error: ZeroDivisionError('zero')", True),
    ],
)
def test_a_command_that_fails_is_told_and_the_next_one_is_answered(error, told, is_logged, tmp_path, caplog):
    async def handle(request):
        if request["command"] == "fail":
            raise error
        return {"done": 1}

    failed, done = asyncio.run(respond(tmp_path / "control", handle, {"command": "fail"}, {"command": "go on"}))
    assert failed == {"ok": False, "version": 1, "error": told}
    assert done == {"ok": True, "version": 1, "done": 1}
    assert ("Traceback" in caplog.text) == is_logged
