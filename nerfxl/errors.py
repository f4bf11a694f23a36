"""The one exception that is the user's to mend."""


class UserError(Exception):
    """Bad input: one clear sentence that names the file and key, what was found and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """
