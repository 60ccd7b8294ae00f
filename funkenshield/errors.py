"""What can go wrong in a way that a person must be told: one exception, one line, one exit code."""


class FunkenShieldError(Exception):
    """Something the operator must mend; its message is one line that says what and where."""

    exit_code = 1


class ConfigError(FunkenShieldError):
    """The configuration is wrong; the message names the file, the key, and what is allowed."""

    exit_code = 2
