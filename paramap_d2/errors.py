"""What a user can put right."""


class UserError(ValueError):
    """Bad input: a config, data set, loss file or option. The message is one line that names what is wrong and how to
    mend it; command lines print it without a traceback and exit with status 2."""
