"""Files that someone else may have written, checked before they are used: what is wrong is one line with their name."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import Required, TypedDict

from anomalib_anoseg.common.messages import one_line

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Number", "PathPart", "Whole", "mapping_of", "read_json", "read_table"]

REMEDY = "Remove it and run its job again."
# Numbers that pandas and plots can compute with; the name of a folder or file, not a path that leads elsewhere.
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
PathPart = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$", max_length=200)]


def read_json(path: Path, kind: Any, schema: int | None = None, remedy: str = REMEDY) -> Any:  # noqa: ANN401
    """Read a JSON object.

    Args:
        path: The file.
        kind: What it must hold: a dataclass or a ``TypedDict``. Entries that it does not name are left out.
        schema: What its entry ``schema`` must be, if it has one.
        remedy: The last sentence of errors.

    Raises:
        ValueError: If it is no JSON object, of another schema, or of another kind.
    """
    if not path.is_file():  # a pipe would wait for its writer
        raise ValueError(f"{path} is no file. {remedy}")
    text = path.read_bytes()
    try:
        content = from_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). {remedy}") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if schema is not None and found != schema:
        raise ValueError(
            f"{path} has schema {one_line(repr(found), 40)}, and this version reads schema {schema}. Update "
            "anomalib-anoseg, or run the board again with this version."
        )
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
        lacking = [_where(fault) for fault in faults if fault["type"] == "missing"]
        wrong = f"is wrong at {_where(faults[0])}: {faults[0]['msg']}, got {one_line(repr(faults[0]['input']), 60)}"
        what = f"lacks {', '.join(lacking)}" if lacking else wrong
        raise ValueError(f"{path} {what}. {remedy}") from None


def _where(fault: Any) -> str:  # noqa: ANN401
    return one_line(".".join(str(part) for part in fault["loc"]), 120)


def mapping_of(record: type, required: Collection[str], **others: Any) -> Any:  # noqa: ANN401
    """Make a ``TypedDict`` with the entries of a dataclass, of which all but the ``required`` may be null or missing.

    Args:
        record: The dataclass.
        required: Names of entries.
        **others: Entries of another type than the dataclass says.

    Example:
        >>> from dataclasses import make_dataclass
        >>> sorted(mapping_of(make_dataclass("Pair", [("a", int), ("b", str)]), {"a"}).__required_keys__)
        ['a']
    """
    hints = get_type_hints(record, include_extras=True) | others
    entries = {name: Required[hint] if name in required else hint | None for name, hint in hints.items()}
    return TypedDict(record.__name__, entries, total=False)  # type: ignore[operator]


def read_table(
    path: Path, required: Collection[str], optional: Collection[str] = (), numbers: Collection[str] = ()
) -> "pd.DataFrame":
    """Read a CSV file with these columns: texts, or finite numbers where ``numbers`` names them; cells may be empty.

    Raises:
        ValueError: If it cannot be read, lacks a column, or holds something else.
    """
    import pandas as pd  # noqa: PLC0415 - tables are for reports alone

    remedy = "Remove its folder and run the job again."
    try:
        frame = pd.read_csv(path, dtype=str, index_col=False)
    except ValueError as error:
        raise ValueError(f"{path} is no table: {one_line(str(error))}. {remedy}") from None
    if absent := [name for name in required if name not in frame]:
        raise ValueError(f"{path} lacks the column(s) {', '.join(absent)}. {remedy}")
    frame = frame.reindex(columns=[*required, *optional])
    for name in numbers:
        found = pd.to_numeric(frame[name], errors="coerce").astype(float)
        if (wrong := frame[name].notna() & ~found.between(-1e15, 1e15)).any():
            cell = one_line(repr(frame.loc[wrong, name].iloc[0]), 60)
            raise ValueError(f"{path}: {name} must be a number, got {cell}. {remedy}")
        frame[name] = found
    return frame
