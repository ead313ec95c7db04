"""What a kill, a full disk or a stranger's files can do: everything is tried, and what did not hold is listed.

    python benchmarks/chaos.py
    python benchmarks/chaos.py --parts kills --num_kills 40
    python benchmarks/chaos.py --parts media --num_images 1000 --restart

`kills` ends training, saving, uploading, preparing and indexing by SIGKILL: before any change of the file system, in
the midst of a file, at any time. What lies under the final names must load, and be the state before or after; the
same command must then give what it gives where nobody kills it, and leave nothing else behind. `checkpoints` and
`data` load hostile checkpoints, catalogues and data folders, and publish what must not leave. `media` reads changed
images and sounds. `resources` takes away disk, rights, open files, network and time. Each case runs in a child that
is forked from one warmed-up process, in a temporary folder, with a Hub of its own; no other process is ended.

A run that is interrupted goes on where it stopped. Results are added to `benchmarks/results/chaos.json`, and a table
of them is written beside it.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "chaos.json"
PARTS = ("kills", "checkpoints", "data", "media", "resources")
COLUMNS = {
    "held": "held",
    "refused": "refused with a sentence",
    "lost": "lost",
    "traceback": "tracebacks",
    "harmful": "harmful",
}
WRITE_EVERY = 20  # seconds
KEPT_NOTE = 400


class Record:
    """What has been tried, in a file: by kind and case the outcome, or several with how often, and what was wrong.

    Args:
        file: is read if it is there.
    """

    def __init__(self, file: Path):
        self.file = file
        self.content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"parts": {}}
        self.written = time.monotonic()

    def part(self, name: str) -> dict[str, Any]:
        return self.content["parts"].setdefault(name, {"seconds": 0.0, "cases": {}})

    def add(self, part: str, kind: str, name: str, outcome: str | dict[str, int], note: str, seconds: float) -> None:
        """Adds a case; what held needs no note."""
        entry = self.part(part)
        entry["seconds"] = round(entry["seconds"] + seconds, 1)
        entry["cases"].setdefault(kind, {})[name] = [outcome, note[:KEPT_NOTE]] if note else [outcome]
        if time.monotonic() - self.written > WRITE_EVERY:
            self.write()

    def forget_bad(self, part: str) -> None:
        """Takes out what did not hold."""
        for cases in self.part(part)["cases"].values():
            for name in [name for name, (outcome, *_) in cases.items() if is_bad(outcome)]:
                del cases[name]

    def write(self) -> None:
        """Writes the file and the table beside it."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
        unfinished.replace(self.file)
        self.file.with_suffix(".md").write_text(page(self.content))
        self.written = time.monotonic()


def is_bad(outcome: str | dict[str, int]) -> bool:
    """Returns whether an outcome, or one of several, is that something did not hold."""
    counts = outcome if isinstance(outcome, dict) else {outcome: 1}
    return any(counts.get(one) for one in ("lost", "traceback", "harmful"))


def page(content: dict[str, Any]) -> str:
    """Returns the table of all kinds, and what did not hold."""
    lines, bad = [], []
    totals = dict.fromkeys(("tried", *COLUMNS), 0)
    for part in (name for name in PARTS if name in content["parts"]):
        for kind, cases in content["parts"][part]["cases"].items():
            counts = dict.fromkeys(COLUMNS, 0)
            for name, (outcome, *note) in cases.items():
                several = outcome if isinstance(outcome, dict) else {outcome: 1}
                for one in COLUMNS:
                    counts[one] += several.get(one, 0)
                if is_bad(outcome):
                    bad.append(f"- {kind}, {name}: {' '.join(' '.join(note).split())}")
            row = {"tried": sum(counts.values()), **counts}
            totals = {name: totals[name] + row[name] for name in totals}
            lines.append(f"| {kind} | " + " | ".join(f"{row[name]:,}" for name in totals) + " |")
    lines.append("| **all** | " + " | ".join(f"**{number:,}**" for number in totals.values()) + " |")
    took = "\n".join(
        f"| `--parts {' '.join([name, entry.get('options', '')]).strip()}` | {entry['seconds'] / 60:.0f} |"
        for name, entry in content["parts"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in content.get("versions", {}).items())
    intro = __doc__.split("\n\n")[2].replace("\n", " ")
    return (
        "# What a kill, a full disk or a stranger's files can do\n\n"
        f"{intro}\n\nWhat did not hold at first was put right and tried again (`--retry`). {versions}.\n\n"
        f"| `python benchmarks/chaos.py` … | minutes, on a busy core |\n|---|---:|\n{took}\n\n"
        f"| kind | tried | {' | '.join(COLUMNS.values())} |\n|---|{'---:|' * (len(COLUMNS) + 1)}\n"
        + "\n".join(lines)
        + "\n\n*Held*: whole, and right; a hostile input was loaded without harm; an image was decoded or counted as "
        "missing. *Refused*: by an error that says what is wrong and names the file or option. *Lost*: a mixture of "
        "two states, something gone or left over, or an input taken for whole that is not. *Tracebacks*: errors that "
        "name nothing. *Harmful*: code ran, a file outside was read or published, time or memory beyond the budget.\n"
        + ("\n## What did not hold\n\n" + "\n".join(bad) + "\n" if bad else "")
    )


def set_up(folder: Path) -> int:
    """Sets the environment before anything is imported; returns the port of the Hub on this machine."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ |= {"HF_HUB_OFFLINE": "0", "TMPDIR": str(folder), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    tempfile.tempdir = str(folder)
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    import tests  # says where caches and the Hub are

    os.environ["HF_TOKEN"] = "hf_write"
    return tests.HUB_PORT


def parts_of(args: argparse.Namespace, place: Any, port: int) -> dict[str, Callable[[], Iterator]]:
    """Returns what yields the cases of each part."""
    import chaos_checkpoints
    import chaos_data
    import chaos_kills
    import chaos_media
    import chaos_resources

    return {
        "kills": lambda: chaos_kills.cases(place, args.num_kills, args.seed),
        "checkpoints": lambda: chaos_checkpoints.cases(place),
        "data": lambda: chaos_data.cases(place),
        "media": lambda: chaos_media.cases(place, args.num_images, args.num_sounds, args.seed),
        "resources": lambda: chaos_resources.cases(place, port),
    }


def run(args: argparse.Namespace, folder: Path) -> int:
    """Tries all that has not been tried; returns how many cases did not hold."""
    port = set_up(folder)
    record = Record(args.output_file)
    for part in args.parts:
        if args.restart:
            record.content["parts"].pop(part, None)
        elif args.retry:
            record.forget_bad(part)
    import torch
    from chaos_case import Workplace
    from chaos_children import serve

    from tests.hub_server import HubServer

    torch.set_num_threads(1)
    names = ("torch", "transformers", "datasets", "huggingface_hub", "safetensors", "pillow", "timm")
    record.content["versions"] = {"Python": platform.python_version(), **versions(names)}
    end, place = serve(lambda: HubServer(port=port)), None
    try:
        place, number_bad = Workplace(folder / "work"), 0
        place.end_server = end
        for part, cases in parts_of(args, place, port).items():
            if part not in args.parts:
                continue
            record.part(part)["options"] = " ".join(options_of(part, args))
            known, all_cases = record.part(part)["cases"], [*cases()][:: args.every]
            for number, case in enumerate(all_cases, start=1):
                if case.name in known.get(case.kind, ()):
                    continue
                started = time.monotonic()
                found = case.run()
                took = time.monotonic() - started
                note = found.note.replace(str(place.root), "")
                record.add(part, case.kind, case.name, found.counts or found.outcome, note, took)
                did_not_hold = is_bad(found.counts or found.outcome)
                number_bad += did_not_hold
                if did_not_hold or number % 25 == 0 or number == len(all_cases):
                    told = f"{found.outcome}: {note[:300]}" if did_not_hold else ""
                    print(f"{part} {number}/{len(all_cases)}: {case.kind}, {case.name} {told}", flush=True)
        return number_bad
    finally:
        record.write()
        (end if place is None else place.end_server)()


def options_of(part: str, args: argparse.Namespace) -> list[str]:
    """Returns the options that decide what a part tries."""
    names = {"kills": ["num_kills", "seed"], "media": ["num_images", "num_sounds", "seed"]}.get(part, [])
    return [f"--{name} {getattr(args, name)}" for name in [*names, *(["every"] if args.every > 1 else [])]]


def versions(names: tuple[str, ...]) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in names}


def main() -> None:
    """Runs the parts in a temporary folder, which is removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--num_kills", type=int, default=250)
    parser.add_argument("--num_images", type=int, default=20_000)
    parser.add_argument("--num_sounds", type=int, default=500)
    parser.add_argument("--every", type=int, default=1, help="Try only every so manyth case.")
    parser.add_argument("--seed", type=int, default=0)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--restart", action="store_true", help="Try again what has been tried.")
    again.add_argument("--retry", action="store_true", help="Try again what has been tried and did not hold.")
    parser.add_argument("--output_file", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.output_file = args.output_file.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was found is written, and the folder removed
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        number_bad = run(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{number_bad} cases did not hold" if number_bad else "all held")


if __name__ == "__main__":
    main()
