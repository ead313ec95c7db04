"""Puts beside a checkpoint what a Hugging Face Inference Endpoint runs: `handler.py` and its requirements."""

from pathlib import Path

from ..models.adapters import can_be_merged
from ..models.pretrained_model import TransRecPreTrainedModel
from ..version import __version__
from .names import HANDLER_NAME


_HANDLER = Path(__file__).parents[1] / "serving" / HANDLER_NAME


def write_handler(folder: Path, model: TransRecPreTrainedModel) -> None:
    """Writes `handler.py`, whose `EndpointHandler` recommends, and a `requirements.txt` for this model."""
    (folder / HANDLER_NAME).write_bytes(_HANDLER.read_bytes())
    kinds = {backbone.config.model_type for backbone in model.item_encoder.backbones}
    needed = {
        "audio": "audio" in (model.config.modality or "").split("+"),
        "peft": can_be_merged(model.config.peft_config),
        "vision": "timm_wrapper" in kinds,
    }
    extras = ",".join(name for name, is_needed in needed.items() if is_needed)
    extras = f"[{extras}]" if extras else ""
    (folder / "requirements.txt").write_text(f"modeling_transrec{extras}=={__version__}\n", encoding="utf-8")
