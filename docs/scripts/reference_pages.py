"""Adds to the site a page of the API reference for every module of the package, and the benchmarks' results."""

from pathlib import Path

from mkdocs.structure.files import File


ROOT = Path(__file__).parents[2]
# Folder of the package: what the navigation calls it.
SECTIONS = {
    "models": "Models",
    "data": "Data",
    "ninerec": "Reading data sets",
    "evaluation": "Evaluation",
    "training": "Training",
    "export": "Export",
    "serving": "Serving",
    "hub": "Hub",
    "benchmark": "Benchmarks",
    "cli": "Command line",
}


def modules() -> dict[str, list[tuple[str, str]]]:
    """Returns for every section its modules: short name, and the name by which they are found."""
    found = {}
    for folder in SECTIONS:
        root = ROOT / ("dataset_scripts/ninerec" if folder == "ninerec" else f"modeling_transrec/{folder}")
        prefix = "ninerec" if folder == "ninerec" else f"modeling_transrec.{folder}"
        paths = sorted(path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
        names = [".".join(path.parts) for path in paths if path.name not in ("__init__", "__main__")]
        found[folder] = [(name, f"{prefix}.{name}") for name in names]
    return found


def on_files(files, config):
    """Adds the pages; they are made anew in every build and lie in no folder."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*")):
        if path.suffix in (".md", ".png"):
            files.append(File.generated(config, f"measurements/{path.name}", abs_src_path=str(path)))
    measurements = [file.src_uri for file in files if file.src_uri.startswith("measurements/")]
    measurements = [path for path in measurements if path.endswith(".md")]
    lookup = next(entry for entry in config.nav if "Look up" in entry)["Look up"]
    next(entry for entry in lookup if "Measurements" in entry)["Measurements"] = measurements
    section = next(entry for entry in config.nav if "API reference" in entry)["API reference"]
    del section[1:]
    for folder, entries in modules().items():
        pages = []
        for name, identifier in entries:
            installed = f"modeling_transrec.{identifier}" if folder == "ninerec" else identifier
            title = installed.removeprefix("modeling_transrec.")
            content = f"# `{title}` {{ #{identifier} }}\n\n`{installed}`\n\n::: {identifier}\n"
            path = f"api/{folder}/{name.replace('.', '_')}.md"
            files.append(File.generated(config, path, content=content))
            pages.append({name: path})
        if pages:
            section.append({SECTIONS[folder]: pages})
    return files
