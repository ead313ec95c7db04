"""Write a Gradio Space: a page on which people choose items and see what is recommended, and why.

    transrec space outputs/shop --output_dir outputs/space
    python outputs/space/app.py

The checkpoint brings its catalogue (`Recommender.save_pretrained`); or it is made of a data set, with its images and
with the transitions of its training interactions:

    transrec space outputs/has_pt --dataset_config_name Sample_Target --title "My shop"

Publish it, with a log-in of `hf auth login`; a checkpoint of the Hub is named there, not copied:

    transrec space me/my-shop --push_to_hub true --hub_space_id me/my-shop-page

The page needs pip install "modeling_transrec[space]"; writing and publishing it do not.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from ..data.arguments import DataArguments
from ..models.checkpoint_files import is_hub_id
from ..serving.recommender import Recommender
from ..serving.space import push_space, write_space
from . import OptionError
from .options import parse_arguments


_DATA_OPTIONS = {f"--{one.name}" for one in fields(DataArguments)}


@dataclass
class SpaceArguments:
    """Says which recommender a Space shows, and where it is published."""

    model_name_or_path: str = field(metadata={"help": "Checkpoint: a folder or a Hub id."})
    model_revision: str = field(
        default="main", metadata={"help": "Branch, tag or commit of --model_name_or_path, where it is a Hub id."}
    )
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
    given = [*(sys.argv[1:] if args is None else args)]
    if given and not given[0].startswith("-"):
        given = ["--model_name_or_path", *given]
    of_data = [one for one in (arg.split("=")[0] for arg in given) if one in _DATA_OPTIONS]
    if of_data and "--dataset_config_name" not in of_data:
        raise OptionError(f"{of_data[0]} is an option of a data set; name it by --dataset_config_name")
    options, data = parse_arguments((SpaceArguments, DataArguments), given, __doc__)
    name, where = options.model_name_or_path, {"revision": options.model_revision}
    recommender, items, hub_id = Recommender.from_pretrained(name, load_catalogue=not of_data, **where), None, None
    if of_data:
        items = data.load_items(recommender.model.config.max_seq_len)
        recommender.index(items, histories=data.load_training_histories())
    elif recommender.items is None:
        raise OptionError(f"{name} has no catalogue to show: name a data set by --dataset_config_name")
    elif is_hub_id(name):
        hub_id = name
    written = write_space(
        recommender, options.output_dir, options.title, items, options.image_size, hub_id, options.model_revision
    )
    print(f"{written}: python {written}")
    if options.push_to_hub:
        print(push_space(options.output_dir, options.hub_space_id, options.private or None))


if __name__ == "__main__":
    main()
