"""Errors as text for messages."""


def one_line(error: BaseException | str, length: int = 300) -> str:
    r"""Format an error, with its type, or a text as one line of limited length.

    Example:
        >>> one_line(ValueError("no\n  good"))
        'ValueError: no good'
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."
