"""Errors and names as text for messages and pages."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def one_line(error: BaseException | str, length: int = 300) -> str:
    r"""Format an error, with its type, or a text as one line of limited length.

    Example:
        >>> one_line(ValueError("no\n  good"))
        'ValueError: no good'
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def escape_markdown(text: object) -> str:
    r"""Write what others named in a line of Markdown, which takes no HTML, link, picture or paragraph from it.

    Example:
        >>> print(escape_markdown("<b>[here](javascript:alert(1))"))
        &lt;b>[here]&#40;javascript:alert(1))
    """
    line = " ".join(str(text).splitlines()) or str(text)
    # Entities, because a backslash of ours could itself be escaped by one of theirs.
    return line.replace("<", "&lt;").replace("](", "]&#40;").replace("]:", "]&#58;")


@contextmanager
def naming_what_cannot_be_read(argument: str, path: Path, remedy: str) -> Generator[None]:
    """Name a file that cannot be read, and what to do, in place of what each format raises in its own way.

    Args:
        argument: Name of the argument that led to the file.
        path: The file.
        remedy: A sentence.

    Raises:
        ValueError: If anything is raised inside.

    Example:
        >>> with naming_what_cannot_be_read("textures", Path("x.png"), "Replace it."):
        ...     raise EOFError("no end")
        Traceback (most recent call last):
        ValueError: textures: x.png cannot be read (EOFError: no end). Replace it.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{argument}: {path} cannot be read ({one_line(error)}). {remedy}") from error
