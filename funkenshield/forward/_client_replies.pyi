from typing_extensions import disjoint_base

from .._fastpath import SettingsWriter
from ..cache._store import Cache
from ._outbox import Outbox

@disjoint_base
class ClientReplies:
    cache: Cache
    settings_writer: SettingsWriter
    outbox: Outbox
    def __new__(cls, cache: Cache, capacity: int, guarded: int = ...) -> ClientReplies: ...
