"""Whether a daemon serves, as asked from outside: by HTTP, where its metrics are, or at its control socket."""

from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, FunkenShieldError
from .control import ask

if TYPE_CHECKING:
    from ..config import Endpoint  # whose modules take longer to load than a health check has

TIMEOUT = 2.0  # seconds; less than a health check is given


def check_ready(endpoint: "Endpoint | None") -> None:
    """Return if a daemon serves; FunkenShieldError where it does not, ConfigError where there is no address."""
    if endpoint is None:
        raise ConfigError("metrics.listen: none; /ready is asked for at that address")
    if not is_ready(endpoint):
        raise FunkenShieldError(f"not ready: {endpoint} says 503")


def check_control(path: Path) -> None:
    """Return if the daemon at a control socket serves; FunkenShieldError where it does not."""
    if not ask(path, {"command": "ready"}, TIMEOUT)["ready"]:
        raise FunkenShieldError(f"not ready: {path} says that it is about to end")


def is_ready(endpoint: "Endpoint", timeout: float = TIMEOUT) -> bool:
    """Tell whether a daemon serves, or is about to end; FunkenShieldError where it says neither within `timeout`."""
    connection = HTTPConnection(endpoint.host, endpoint.port, timeout=timeout)
    try:
        connection.request("GET", "/ready")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        raise FunkenShieldError(f"not ready: {endpoint}: {error}") from None
    finally:
        connection.close()
    if status not in (200, 503):
        raise FunkenShieldError(f"not ready: {endpoint} says {status}")
    return status == 200
