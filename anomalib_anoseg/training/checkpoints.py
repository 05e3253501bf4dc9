"""A clear word when a checkpoint does not fit the model that shall load it."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule


class ExplainedMisfit(LightningModule):
    """Explains what torch lists weight by weight when a checkpoint was trained with other arguments.

    A mixin, to stand before :class:`anomalib.models.components.AnomalibModule`. An argument that
    ``load_from_checkpoint`` overrides in Python cannot be told from a saved one; torch's own error remains there.

    Attributes:
        shaping_arguments: See :func:`explain_misfit`.
        saved_arguments: Those of the last checkpoint that was loaded, ``None`` if there was none.
    """

    shaping_arguments: Mapping[str, Callable[[Any], object]]
    saved_arguments: Mapping[str, Any] | None = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note with which arguments the weights were trained."""
        super().on_load_checkpoint(checkpoint)
        self.saved_arguments = dict(checkpoint.get("hyper_parameters", {}))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load weights.

        Raises:
            ValueError: If they are of networks of another shape, and the arguments tell why.
            RuntimeError: torch's own, if they do not.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError:
            if misfit := explain_misfit(self.saved_arguments or {}, self.hparams, self.shaping_arguments):
                raise ValueError(misfit) from None
            raise


def explain_misfit(
    saved: Mapping[str, Any], own: Mapping[str, Any], shaping: Mapping[str, Callable[[Any], object]]
) -> str | None:
    """Explain in terms of a model's arguments why weights of a checkpoint do not fit, and what to do.

    Args:
        saved: Arguments with which the model of the checkpoint was built.
        own: Those of the model that shall load it.
        shaping: Names of the arguments that shape the networks, ``group.setting`` or plain, each with
            what makes two values alike: ``float`` for
            a factor, ``bool`` where only on or off matters.

    Returns:
        The explanation, or ``None`` if the arguments do not tell.

    Example:
        >>> trained, own = {"network": {"width": 0.25}}, {"network": {"width": 1.0}}
        >>> print(explain_misfit(trained, own, {"network.width": float}))
        The checkpoint was trained with network.width=0.25, but this model has network.width=1.0. Add
        --model.network.width 0.25 to the command.
    """
    absent = object()
    values = {name: (_look_up(saved, name, absent), _look_up(own, name, absent)) for name in shaping}
    known = {name: pair for name, pair in values.items() if absent not in pair}
    names = [name for name, (first, second) in known.items() if shaping[name](first) != shaping[name](second)]
    if not names:
        return None
    trained, here = (", ".join(f"{name}={known[name][place]}" for name in names) for place in (0, 1))
    options = " ".join(f"--model.{name} {_as_yaml(known[name][0])}" for name in names)
    return f"The checkpoint was trained with {trained}, but this model has {here}. Add {options} to the command."


def _look_up(arguments: Mapping[str, Any], name: str, default: object) -> Any:  # noqa: ANN401
    """Read an argument, or ``group.setting``; ``default`` where there is none."""
    group, _, setting = name.rpartition(".")
    found = arguments.get(group, {}) if group else arguments
    return found.get(setting, default) if isinstance(found, Mapping) else default


def _as_yaml(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"'{list(value)}'"
    return str(value).lower() if isinstance(value, bool) else str(value)
