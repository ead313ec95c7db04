"""Every block of code on a page runs, and prints what the block of text behind it shows.

A block that cannot run here has a comment before it in the page's source, `<!-- skip: next "the reason" -->`.
"""

import contextlib
import functools
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import pytest


pytest.importorskip("sybil", reason='needs pip install ".[docs]"')

from sybil import Example  # noqa: E402
from sybil.document import Document  # noqa: E402
from sybil.parsers.markdown import CodeBlockParser, SkipParser  # noqa: E402

from modeling_transrec.benchmark.suites import read_suite  # noqa: E402
from modeling_transrec.cli import main as command_line  # noqa: E402


ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "dataset_scripts/**/*.md", "model_cards/**/*.md")
    for page in ROOT.glob(pattern)
    if "```" in page.read_text(encoding="utf-8")
)
# Their blocks take hours, or need data of others: only the commands and their options are looked at.
OTHER_PAGES = sorted((ROOT / "benchmarks").rglob("*.md"))
NUMBER = re.compile(r"-?\d+\.\d+")
_COMMAND = re.compile(r"^ *(?:\w+=\S+ )*transrec ([\w-]+)([^\n|;&#]*)", flags=re.MULTILINE)
TOLERANCE = 0.03  # a small model's metrics move by this with the number of threads
COMMAND = Path(sys.executable).with_name("transrec")


def run_python(example: Example) -> None:
    """Runs a block in the page's own namespace and keeps what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(str(example.parsed), f"{example.path}:{example.line}", "exec"), example.namespace)
    example.namespace["__printed__"] = printed.getvalue()


def run_bash(example: Example) -> None:
    """Runs a block of shell commands, every one of which must succeed."""
    if "transrec" in str(example.parsed) and not COMMAND.exists():
        pytest.skip("the command transrec is not installed: pip install -e .")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = f"set -euo pipefail\n{example.parsed}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, text=True, capture_output=True, timeout=900
    )
    assert done.returncode == 0, f"{example.parsed}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    example.namespace["__printed__"] = None


def compare(example: Example) -> None:
    """Compares a block of text with the end of what the block of code before it printed, if there is one."""
    printed = example.namespace.pop("__printed__", None)
    if printed is None:
        return
    shown = str(example.parsed).strip().splitlines()
    found = printed.strip().splitlines()[-len(shown) :]
    assert [NUMBER.sub("#", line) for line in found] == [NUMBER.sub("#", line) for line in shown]
    for mine, theirs in zip(NUMBER.findall("\n".join(found)), NUMBER.findall("\n".join(shown)), strict=True):
        assert float(mine) == pytest.approx(float(theirs), abs=TOLERANCE)


def blocks(page: Path) -> list[Example]:
    """The page's examples, in order."""
    parsers = [
        CodeBlockParser("python", run_python),
        CodeBlockParser("bash", run_bash),
        CodeBlockParser("text", compare),
        SkipParser(),
    ]
    return list(Document.parse(str(page), *parsers).examples())


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_blocks_run(page, workplace):
    for example in blocks(page):
        try:
            example.evaluate()
        except SkipTest:  # of the comment before it
            example.namespace.pop("__printed__", None)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_block_has_a_language(page):
    """Else it would be run by nobody, and nobody would see it."""
    fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    languages = [fence.split()[0] if fence else "" for fence in fences[::2]]
    assert set(languages) <= {"python", "bash", "text", "bibtex", "yaml"}
    assert shutil.which("bash")


def test_blocks_of_yaml_are_suites(tmp_path):
    pages = (page.read_text(encoding="utf-8") for page in PAGES)
    found = [block for page in pages for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    assert found
    for number, block in enumerate(found):
        (tmp_path / f"{number}.yaml").write_text(block, encoding="utf-8")
        assert read_suite(str(tmp_path / f"{number}.yaml")).tasks()


@functools.cache
def options_of(command: str) -> set[str]:
    """The options that `transrec COMMAND --help` lists."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        assert command_line.main([command, "--help"]) is None
    return set(re.findall(r"--\w+", printed.getvalue()))


@pytest.mark.parametrize("page", PAGES + OTHER_PAGES, ids=[str(one.relative_to(ROOT)) for one in PAGES + OTHER_PAGES])
def test_commands_have_the_options_that_pages_give_them(page):
    """Of blocks that are skipped, too: those that train for hours or need data of others."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    for command, given in _COMMAND.findall("\n".join(blocks)):
        assert command in command_line.COMMANDS, command
        unknown = set(re.findall(r"(?<!\S)--\w+", given)) - options_of(command)
        assert not unknown, f"transrec {command} has no {unknown}"
