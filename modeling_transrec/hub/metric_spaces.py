"""Writes the cards of modules of `evaluate`, and publishes them as Spaces.

    python -m modeling_transrec.hub.metric_spaces metrics/*/
    python -m modeling_transrec.hub.metric_spaces metrics/*/ --namespace ninerec

The first line writes the cards into the folders, the second uploads the folders with a log-in of `hf auth login`.
"""

import argparse
import html
from collections.abc import Sequence
from pathlib import Path

import evaluate
from huggingface_hub import CommitOperationAdd, HfApi

from .names import CARD_NAME


_CARD = """\
---
title: {title}
sdk: static
license: apache-2.0
tags:
- evaluate
- metric
---

# Metric card: {title}

{description}

## How to use

```python
{examples}
```

Arguments of `compute` can be given to `evaluate.load`, too, so that metrics that need different ones can be combined:
`evaluate.combine([…])`. `add_batch` takes users in parts. Needs `pip install modeling_transrec evaluate`.

## Inputs and output

```text
{arguments}
```
{sources}"""
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<h1>{title}</h1>
<p>{description}</p>
<pre>{card}</pre>
</html>
"""


def metric_card(folder: str | Path, namespace: str = "metrics") -> str:
    """Returns the card of a module, made of its docstring.

    Args:
        folder: the module's folder.
        namespace: where the examples load it from: the folder `metrics`, or a user or an organisation of the Hub.
    """
    module = evaluate.load(str(folder))
    arguments, _, examples = module.inputs_description.partition("\n\nExamples:\n\n")
    sources = f"\n## Citation\n\n```bibtex\n{module.citation.strip()}\n```\n" if module.citation else ""
    if module.info.reference_urls:
        links = "\n".join(f"- <{url}>" for url in module.info.reference_urls)
        sources += f"\n## Further references\n\n{links}\n"
    return _CARD.format(
        title=module.title,
        description=module.description,
        examples=examples.strip().replace('load("metrics/', f'load("{namespace}/'),
        arguments=arguments.strip(),
        sources=sources,
    )


def push_metric(folder: str | Path, namespace: str, token: str | None = None, private: bool = False) -> str:
    """Publishes a module as the Space `NAMESPACE/NAME`, from which `evaluate.load("NAMESPACE/NAME")` loads it.

    Args:
        folder: the module's folder `NAME` with `NAME.py`.
        namespace: a user or an organisation of the Hub.
        token: a token that may write; by default that of the log-in.
        private: whether a new Space is private.

    Returns:
        The address of the commit.
    """
    folder, api = Path(folder).resolve(), HfApi(token=token)
    module, card = evaluate.load(str(folder)), metric_card(folder, namespace)
    shown = {"title": module.title, "description": module.description, "card": card.partition("\n---\n\n")[2]}
    files = {path.name: path.read_bytes() for path in (folder / f"{folder.name}.py", folder / "requirements.txt")}
    files[CARD_NAME] = card.encode()
    files["index.html"] = _PAGE.format(**{name: html.escape(text) for name, text in shown.items()}).encode()
    repo_id = f"{namespace}/{folder.name}"
    api.create_repo(repo_id, repo_type="space", space_sdk="static", private=private, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    made = api.create_commit(repo_id, operations, commit_message=f"Add {module.title}", repo_type="space")
    return made.commit_url


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="folders of modules")
    parser.add_argument("--namespace", help="user or organisation of the Hub to publish under")
    options = parser.parse_args(args)
    for folder in map(Path, options.folders):
        if options.namespace is None:
            (folder / CARD_NAME).write_text(metric_card(folder), encoding="utf-8")
        else:
            print(push_metric(folder, options.namespace))


if __name__ == "__main__":
    main()
