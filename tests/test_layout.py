"""The shape of the project: what lies where, what imports what, what the wheel carries."""

import ast
import configparser
from pathlib import Path

import modeling_transrec


ROOT = Path(__file__).parents[1]
ORDER = (  # a room imports only from those before it
    "version sequences metrics batch_sizes losses configuration_transrec processing_transrec data data_collator "
    "frozen_layers item_chunks pooling fusions text_masks adapters backbones content_encoders item_encoders "
    "user_encoders checkpoint_files modeling_transrec scoring frozen_items evaluation training_args model_card "
    "trainer recommender pipeline arguments model_building experiment __init__"
).split()


def imports(path):
    """Pairs of (is relative, module) for every import of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path}:{node.lineno}: only `from .x import A` travels with a checkpoint"
            yield bool(node.level), node.module
        elif isinstance(node, ast.Import):
            yield from ((False, alias.name) for alias in node.names)


def test_imports_point_backwards_and_are_of_the_plain_form():
    rank = {room: place for place, room in enumerate(ORDER)}
    files = {path.stem: path for path in (ROOT / "modeling_transrec").glob("*.py")}
    assert files.keys() == rank.keys()
    for room, path in files.items():
        for is_relative, module in imports(path):
            if is_relative:
                assert module and rank[module] < rank[room], f"{room} imports {module}, which comes later"
            elif room != "__init__":
                assert module.split(".")[0] not in ("modeling_transrec", "dataset_scripts"), f"{room}: {module}"


def test_the_wheel_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for folder in ("modeling_transrec", "dataset_scripts")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert listed == found


def test_public_names_are_there():
    for name in modeling_transrec.__all__:
        assert hasattr(modeling_transrec, name), name
