"""Make a leaderboard, a static page that is a Hugging Face Space, from lines of results.

    transrec leaderboard outputs/benchmark/results.jsonl --output_dir outputs/leaderboard

Check results before they are sent, or a pull request that has some:

    transrec leaderboard submissions/*.jsonl --check

With files for the Hub, too: eval.yaml for the data set repository that holds the benchmark, and .eval_results for the
model repositories that the results' cards name:

    transrec leaderboard results.jsonl --output_dir outputs/leaderboard --benchmark_id me/my-benchmark
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..benchmark.leaderboard import write_leaderboard
from ..benchmark.submissions import check_files
from ..hub.benchmark_files import write_benchmark_files
from . import OptionError


def main(args: Sequence[str] | None = None) -> int:
    """Runs `transrec leaderboard`; returns the exit status, 1 if there are problems."""
    parser = argparse.ArgumentParser(
        prog="transrec leaderboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", metavar="RESULTS.jsonl", help="files of results, a JSON object a line")
    parser.add_argument("--output_dir", metavar="FOLDER", help="where the page and what belongs to it are written")
    parser.add_argument("--check", action="store_true", help="only check the files; the exit status is 1 if one fails")
    parser.add_argument("--title", default="Transferable sequential recommendation", help="of the page")
    parser.add_argument(
        "--benchmark_id",
        metavar="OWNER/NAME",
        help="data set on the Hub that holds the benchmark: eval.yaml and .eval_results are written, too, into hub/",
    )
    options = parser.parse_args(args)
    if options.check == (options.output_dir is not None):
        raise OptionError("give either --output_dir FOLDER, to write the page, or --check")
    try:
        results = check_files(options.results)
        if options.check:
            print(f"{len(results):,} results, no problem found")
            return 0
        print(write_leaderboard(results, options.output_dir, options.title))
        if options.benchmark_id is not None:
            for path in write_benchmark_files(results, options.benchmark_id, Path(options.output_dir) / "hub"):
                print(path)
    except ValueError as error:
        print(f"transrec leaderboard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
