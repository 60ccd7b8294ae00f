"""DNS over HTTPS for clients: what requests of each listener with HTTP are judged by, as the configuration says.

What connections do with it is in `_http2`, which is there only if nghttp2 was when the package was built.
"""

from typing import TYPE_CHECKING

from ..cache._store import Cache
from ..config import Config
from ..config.guard import packed
from ..config.listeners import ListenerSection
from ..config.types import Endpoint
from ..errors import ConfigError

if TYPE_CHECKING:
    from ._http2 import Http2Listener, HttpManner


class HttpListeners:
    """The listeners with HTTP of a daemon; where there are none, it does nothing."""

    def __init__(self) -> None:
        self.listeners: dict[Endpoint, Http2Listener] = {}

    def configure(self, config: Config, cache: Cache) -> None:
        """Have requests from now on judged as a configuration says. ConfigError where HTTP/2 is not built in."""
        before, self.listeners = self.listeners, {}
        for endpoint, section in _serving(config).items():
            manner, listener = compiled()
            self.listeners[endpoint] = before.get(endpoint) or listener(cache)
            self.listeners[endpoint].use(manner(section.paths, packed(section.forwarded_for_from)))


def compiled() -> "tuple[type[HttpManner], type[Http2Listener]]":
    """Return the compiled part; ConfigError where it was not built, or nghttp2 is gone since."""
    try:
        from ._http2 import Http2Listener, HttpManner
    except ModuleNotFoundError:
        raise ConfigError(
            'listeners: transport "https" or "http": DNS over HTTPS is not built in: install nghttp2\'s headers'
            " (Debian: libnghttp2-dev), and build or install funkenshield again"
        ) from None
    except ImportError as error:
        raise ConfigError(f'listeners: transport "https" or "http": DNS over HTTPS cannot be loaded: {error}') from None
    return HttpManner, Http2Listener


def examine(config: Config) -> None:
    """See that what listeners with HTTP take is built in; ConfigError where it is not."""
    if _serving(config):
        compiled()


def _serving(config: Config) -> dict[Endpoint, ListenerSection]:
    """Return the listeners with HTTP, by where they are."""
    return {each.endpoint: each.section for each in config.all_listeners if each.section.speaks_http}
