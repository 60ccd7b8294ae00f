from typing import final

@final
class Purges: ...
