"""Files that are written completely or not at all."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401
    r"""Write JSON completely or not at all; numbers that are not finite become null.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "new" / "file.json", {"a": float("nan")})
        ...     (Path(folder) / "new" / "file.json").read_text()
        '{\n  "a": null\n}\n'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(content), indent=2, allow_nan=False, default=str, ensure_ascii=False)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def _finite(content: Any) -> Any:  # noqa: ANN401
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
