from typing import final

from .._fastpath import SettingsWriter
from ._pending import PendingQueries

@final
class ClientReplies:
    def __new__(cls, settings_writer: SettingsWriter, queries: PendingQueries) -> ClientReplies: ...
