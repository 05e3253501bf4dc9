"""The pictures that `test` and `predict` write, one for each file."""

from pathlib import Path
from typing import Any

from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer
from lightning.pytorch import Trainer


class ResultPictures(ImageVisualizer):
    """Writes what anomalib writes, and keeps the results of files that share their name and their folder's name apart.

    anomalib keeps no more than the last folder of a path, so that the result for ``b/good/1.png`` would replace that
    for ``a/good/1.png``. Here the first one keeps its place; others get further folders of their paths.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - those of anomalib's
        super().__init__(**arguments)
        self._owners: dict[Path, str] = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,  # noqa: ANN401
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Write the results of a batch; a prediction ends here, too."""
        root = Path(self.output_dir or Path(trainer.default_root_dir) / "images")
        for item in batch:
            self.output_dir = self._find_folder(trainer, root, str(item.image_path or ""))
            one: Any = [item]
            super().on_test_batch_end(trainer, pl_module, outputs, one, *args, **kwargs)
        self.output_dir = root

    def _find_folder(self, trainer: Trainer, root: Path, path: str) -> Path:
        """Find the folder below ``root`` in which the result for a file replaces that of no other one."""
        datamodule: Any = getattr(trainer, "datamodule", None)
        names = {"dataset_name": getattr(datamodule, "name", None), "category": getattr(datamodule, "category", None)}
        folders = Path(path).absolute().parts[1:-2]  # without the root and what anomalib keeps
        for start in range(len(folders), -1, -1):
            folder = root.joinpath(*folders[start:])
            target = generate_output_filename(path, folder, **names, mkdir=False)
            if self._owners.setdefault(target, path) == path:
                return folder
        return root
