"""Check the files of a data set in NineRec's layout, and list every problem with file and line.

    python -m modeling_transrec.ninerec.validate Bili_Food --data_dir FOLDER
    python -m modeling_transrec.ninerec.validate my_data --data_dir FOLDER --max_examples 20 --num_workers 8
    python -m modeling_transrec.ninerec.validate my_shop --interactions sales.parquet --items products.csv \\
        --columns '{"user_id": "customer", "item_id": "sku", "timestamp": "bought_at", "text_en": "product"}'

A problem is an error (loading fails), a warning (something is left out, counts as missing, or is probably wrong) or a
note. The exit status is 1 where there is an error.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from ..files import DERIVED, DatasetFiles, data_folder, find_files
from ..tables.items import read_items
from ..tables.options import TableOptions
from ..tables.problems import SEVERITIES, Problem, Problems, without_warnings
from .check_media import check_media
from .check_tables import check_interactions, check_items
from .options import add_table_options, as_on_the_command_line, table_options
from .own_tables import add_own_tables, in_own_words, linked


_STOPS = "load_dataset stops at: "


def validate(
    name: str,
    data_dir: str | Path,
    max_examples: int = 5,
    num_workers: int = 1,
    min_actions: int | None = None,
    **options,
) -> list[Problem]:
    """Returns the problems of data set `name`, errors first.

    Args:
        name: of the data set, e.g. `"Bili_Food"`.
        data_dir: the folder, as for `load_dataset`.
        max_examples: how many examples a problem has at most.
        num_workers: threads that decode images.
        min_actions: as for `load_dataset`.
        options: those of [`TableOptions`], as for `load_dataset`.
    """
    problems = Problems(max_examples)
    root = Path(os.path.expanduser(data_dir))
    name, own = DERIVED.get(name, (name, {}))
    filters = {"min_actions": 5, **own}
    if min_actions is not None:
        filters["min_actions"] = min_actions
    tables = TableOptions(**options)
    _check_links(name, root, problems)
    try:
        with without_warnings():
            files = find_files(name, root)
    except (ValueError, OSError) as error:
        problems.add("error", root, str(error), count=1)
        return problems.found()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            items, interactions = files.tables(Path(scratch), tables)
        except ValueError as error:
            problems.add("error", root, str(error), count=1)
            return problems.found()
        with without_warnings():
            _check_rows(files, items, interactions, tables, filters["min_actions"], num_workers, problems)
            _check_loading(files, Path(scratch), tables, filters, problems)
    read = {items: str(files.items), interactions: str(files.interactions)}  # unpacked, or decoded
    names = {str(path): name for path, name in read.items() if str(path) != name}
    return [_called(problem, names) for problem in problems.found()]


def _called(problem: Problem, names: dict[str, str]) -> Problem:
    """Returns a problem of a table that was unpacked or decoded as one of the file that is there."""
    what = problem.what
    for path, name in names.items():
        what = what.replace(path, name)
    return replace(problem, path=Path(names.get(str(problem.path), str(problem.path))), what=what)


def _check_rows(
    files: DatasetFiles,
    items_path: Path,
    interactions: Path,
    options: TableOptions,
    min_actions: int,
    num_workers: int,
    problems: Problems,
) -> None:
    """Reads everything as `load_dataset` does, but goes on after what is wrong."""
    items = None
    with _readable(items_path, problems):
        items = read_items(items_path, options, on_problem=problems)
        check_items(items_path, items, problems)
    if items is None:
        return
    with _readable(interactions, problems):
        check_interactions(interactions, items_path, items, problems, min_actions, options)
    if files.images is None:
        what = f"no folder {files.name}_cover, on disk or in an archive, nor {files.name}_cover.zip"
        problems.add("note", files.root, f"{what}: no images can be used", count=1)
    for media, folder in files.media.items():
        if folder is not None:
            with _readable(folder if isinstance(folder, Path) else folder[0].archive, problems):
                check_media(media, folder, items["item_id"].to_list(), problems, num_workers)


@contextlib.contextmanager
def _readable(path: Path, problems: Problems) -> Iterator[None]:
    """Adds what ends the reading of a file as a problem: it is empty, archives contradict, or it may not be read."""
    try:
        yield
    except ValueError as error:
        problems.add("error", path, str(error), count=1)
    except OSError as error:
        problems.add("error", path, f"cannot be read: {error.strerror or error}", count=1)


def _check_links(name: str, root: Path, problems: Problems) -> None:
    wanted = {f"{name}_item.csv", f"{name}_pair.csv", f"{name}_behaviour.tsv", f"{name}_cover", f"{name}_audio"}
    for folder, folders, files in os.walk(root):
        folders[:] = [entry for entry in folders if not entry.endswith(("_cover", "_audio"))]
        for path in (Path(folder, entry) for entry in wanted & {*files, *folders}):
            if not path.exists():
                problems.add("warning", Path(folder), "links to nothing: left out", path.name)
            elif not path.is_file() and not path.is_dir():
                problems.add("warning", Path(folder), "a pipe or a device: left out", path.name)


def _check_loading(
    files: DatasetFiles, folder: Path, options: TableOptions, filters: dict[str, int], problems: Problems
) -> None:
    """Reads the data set as `load_dataset` does: its verdict counts."""
    try:
        files.read(folder, options, **filters)
    except Exception as error:  # of any kind, as a user of `load_dataset` would see it
        problems.add("error", files.root, f"{_STOPS}{error or type(error).__name__}", count=1)


def report(name: str, problems: list[Problem]) -> str:
    """Problems as text, grouped by file."""
    same = {f"{_STOPS}{problem.what}" for problem in problems}  # need not be read twice
    problems = [problem for problem in problems if problem.what not in same]
    lines = []
    by_path = sorted(problems, key=lambda problem: str(problem.path))  # stable: the most severe stay first
    for path, found in groupby(by_path, key=lambda problem: problem.path):
        lines.append(str(path))
        for problem in found:
            count = f"{problem.count:,} × " if problem.count != 1 or problem.examples else ""
            lines.append(f"  {problem.severity:<8} {count}{problem.what}")
            lines += [f"{'':15}{example}" for example in problem.examples]
            if problem.examples and problem.count > len(problem.examples):
                lines.append(f"{'':15}… and {problem.count - len(problem.examples):,} more")
    kinds = [sum(problem.severity == severity for problem in problems) for severity in SEVERITIES]
    total = ", ".join(
        f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in zip(SEVERITIES, kinds, strict=True)
    )
    verdict = "cannot be loaded: correct the errors first" if kinds[0] else "can be loaded"
    return "\n".join([*lines, f"{name} {verdict} ({total})"])


def _in_own_words(problem: Problem, tables: dict[str, str]) -> Problem:
    path, what = (in_own_words(str(text), tables) for text in (problem.path, problem.what))
    what = as_on_the_command_line(what)
    return replace(
        problem, path=Path(path), what=what, examples=[in_own_words(one, tables) for one in problem.examples]
    )


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="name of the data set, such as Bili_Food")
    add_own_tables(parser)
    add_table_options(parser)
    parser.add_argument("--max_examples", type=int, default=5, help="examples shown of each problem (default: 5)")
    parser.add_argument("--num_workers", type=int, default=1, help="threads that decode images (default: 1)")
    args = parser.parse_args(arguments)
    if args.max_examples < 0 or args.num_workers < 1:
        parser.error("--max_examples must be at least 0 and --num_workers at least 1")
    options = vars(table_options(parser, args))
    try:
        with linked(args.name, args) as (staging, tables):
            data_dir = staging or data_folder(args.name, args.data_dir)
            if data_dir is None:
                parser.error("name the folder of the raw files with --data_dir, or set NINEREC_DATA_DIR")
            problems = validate(args.name, data_dir, args.max_examples, args.num_workers, args.min_actions, **options)
    except ValueError as error:
        parser.error(as_on_the_command_line(str(error)))
    problems = [_in_own_words(problem, tables) for problem in problems]
    # names of files need not be text
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # where it is a TextIOWrapper
    print(report(args.name, problems))
    return int(any(problem.severity == "error" for problem in problems))


if __name__ == "__main__":
    sys.exit(main())
