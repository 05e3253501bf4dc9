"""What a model says about itself in the files that are exported from it."""

from importlib.metadata import version
from typing import Any

from anomalib.data.transforms.utils import extract_transforms_by_type
from timm.models import get_pretrained_cfg
from torchvision.transforms.v2 import Resize

from anomalib_anoseg import __version__
from anomalib_anoseg.deploy.preset import name_preset
from anomalib_anoseg.deploy.record import Appearance, Model, OperatingPoint, Record, Threshold, Thresholds, Training
from anomalib_anoseg.deploy.resize import MatrixResize
from anomalib_anoseg.training.calibrated import CalibratedPostProcessor
from anomalib_anoseg.training.checkpoints import digest

__all__ = ["describe", "describe_appearance"]

PACKAGES = ("anomalib", "torch", "torchvision", "timm")
ANOMALOUS = "true: anomalous"
SCORE = "higher is more anomalous"


def describe(model: Any, input_size: tuple[int, int] | None = None, input_name: str = "input") -> Record:  # noqa: ANN401
    """Describe a model of this package as its exported file will be.

    Args:
        model (SelfSupervisedModel): Its copy for inference.
        input_size: Height and width in pixels that the file takes; ``None`` for any.
        input_name: Of the input.
    """
    networks, post_processor = model.model, model.post_processor
    trained_on = getattr(post_processor, "trained_on", {})
    resize = _find_resize(model.pre_processor)
    size = ["height", "width"] if input_size is None else list(input_size)
    return Record(
        model=Model(
            name=type(model).__name__,
            preset=name_preset(type(model), model.hparams),
            parameters=sum(parameter.numel() for parameter in networks.parameters()),
            digest=f"sha256:{digest(networks.state_dict())}",
        ),
        versions={"anomalib-anoseg": __version__} | {name: version(name) for name in PACKAGES},
        training=Training(**trained_on, seed=model.seed),
        input={
            "name": input_name,
            "shape": ["batch", 3, *size],
            "dtype": "float32",
            "range": [0, 1],
            "colors": "RGB",
            "resize": resize,
        },
        outputs=_list_outputs(post_processor, size if resize is None else resize["size"]),
        thresholds=_describe_thresholds(post_processor),
        operating_points=_list_operating_points(post_processor),
        appearance=describe_appearance(getattr(post_processor, "appearance", {})),
        ignore_mask=networks.region.record(),
        weights_licence=_find_licence(model.published_weights),
    )


def _find_resize(pre_processor: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """Describe the resize inside a file; ``None`` if there is none."""
    transform = getattr(pre_processor, "export_transform", None)
    for kind in (MatrixResize, Resize):
        for found in extract_transforms_by_type(transform, kind):
            is_exact = kind is MatrixResize
            mode = "bilinear" if is_exact else getattr(found.interpolation, "value", found.interpolation)
            antialiased = "antialiased" if is_exact or found.antialias else "not antialiased"
            return {"size": list(found.size), "method": f"{mode}, {antialiased}, inside the file"}
    return None


def _list_outputs(post_processor: Any, size: list[Any]) -> dict[str, Any]:  # noqa: ANN401
    """Describe each output; without thresholds there are neither labels nor masks."""
    is_normalised = bool(getattr(post_processor, "enable_normalization", False))
    per_image, per_pixel = ["batch"], ["batch", 1, *(size if len(size) > 1 else ["height", "width"])]
    number = {"dtype": "float32", "range": [0, 1] if is_normalised else None, "meaning": SCORE}
    decision = {"dtype": "bool", "meaning": ANOMALOUS}
    outputs = {"pred_score": {"shape": per_image, **number}, "anomaly_map": {"shape": per_pixel, **number}}
    if getattr(post_processor, "enable_thresholding", False):
        outputs |= {"pred_label": {"shape": per_image, **decision}, "pred_mask": {"shape": per_pixel, **decision}}
    return outputs


def _describe_thresholds(post_processor: Any) -> Thresholds:  # noqa: ANN401
    if post_processor is None:
        return Thresholds(Threshold(), Threshold(), "none")
    image, pixel = (
        Threshold(
            raw=float(getattr(post_processor, f"{level}_threshold")),
            low=float(getattr(post_processor, f"{level}_min")),
            high=float(getattr(post_processor, f"{level}_max")),
            score=float(getattr(post_processor, f"normalized_{level}_threshold")),
        )
        for level in ("image", "pixel")
    )
    calibrated_on = getattr(post_processor, "calibrated_on", "anomalous images")
    return Thresholds(image, pixel, calibrated_on, getattr(post_processor, "threshold_rate", None))


def _list_operating_points(post_processor: Any) -> tuple[OperatingPoint, ...]:  # noqa: ANN401
    if not isinstance(post_processor, CalibratedPostProcessor):
        return ()
    kind = "real_found" if post_processor.calibrated_on == "anomalous images" else "forged_found"
    rows = [point._asdict() for point in post_processor.operating_points]
    return tuple(OperatingPoint(**{kind: row.pop("found")}, **row) for row in rows)


def describe_appearance(known: dict[str, Any]) -> Appearance | None:
    """Make an entry of the record of what a training knows of held-out pictures; ``None`` of nothing."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return Appearance(**values) if values else None


def _find_licence(weights: str | None) -> str | None:
    """Find the licence of weights that timm published; ``None`` if it names none, or they are from elsewhere."""
    known = get_pretrained_cfg(weights) if weights else None
    return getattr(known, "license", None)
