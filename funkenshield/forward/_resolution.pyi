from typing import final

from ._attempts import Attempts
from ._client_replies import ClientReplies

@final
class Resolution:
    def __new__(cls, replies: ClientReplies, attempts: Attempts) -> Resolution: ...
