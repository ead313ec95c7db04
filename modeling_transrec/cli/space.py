"""Write a Gradio Space: a page on which people choose items and see what is recommended, and why.

    transrec space outputs/shop --output_dir outputs/space
    python outputs/space/app.py

The checkpoint brings its catalogue (`Recommender.save_pretrained`); or it is made of a data set, with its images and
with the transitions of its training interactions:

    transrec space outputs/has_pt --dataset_config_name Sample_Target --title "My shop"

An export is shown by ONNX Runtime:

    transrec space outputs/onnx --backend onnx

Publish it, with a log-in of `hf auth login`; a checkpoint of the Hub is named there, not copied:

    transrec space me/my-shop --push_to_hub true --hub_space_id me/my-shop-page

The page needs pip install "modeling_transrec[space]"; writing and publishing it do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..models.checkpoint_files import is_hub_id
from ..serving.space import push_space, write_space
from . import OptionError
from .options import RunArguments, load_recommender, parse_checkpoint_and_data


@dataclass
class SpaceArguments(RunArguments):
    """Says which recommender a Space shows, and where it is published."""

    output_dir: str = field(default="outputs/space", metadata={"help": "Folder to write."})
    title: str = field(default="Recommendations", metadata={"help": "Title of the page."})
    image_size: int = field(default=192, metadata={"help": "Longer side of the items' pictures, in pixels."})
    push_to_hub: bool = field(default=False, metadata={"help": "Publish the folder as the Space --hub_space_id."})
    hub_space_id: str | None = field(default=None, metadata={"help": "Space to publish to: OWNER/NAME."})
    private: bool = field(default=False, metadata={"help": "Whether a new Space is private."})
    _argument_group_name = "space"

    def __post_init__(self):
        if self.push_to_hub and self.hub_space_id is None:
            raise ValueError("--push_to_hub needs the Space to publish to: --hub_space_id OWNER/NAME")
        if self.image_size < 1:
            raise ValueError(f"--image_size must be at least 1, got {self.image_size}")


def main(args: Sequence[str] | None = None) -> None:
    """Runs `transrec space`."""
    options, data = parse_checkpoint_and_data(SpaceArguments, args, __doc__)
    name = options.model_name_or_path
    recommender, items = load_recommender(options, data)
    if recommender.items is None:
        raise OptionError(f"{name} has no catalogue to show: name a data set by --dataset_config_name")
    hub_id = name if data is None and is_hub_id(name) and options.platform is None else None
    written = write_space(
        recommender, options.output_dir, options.title, items, options.image_size, hub_id, options.model_revision
    )
    print(f"{written}: python {written}")
    if options.push_to_hub:
        print(push_space(options.output_dir, options.hub_space_id, options.private or None))


if __name__ == "__main__":
    main()
