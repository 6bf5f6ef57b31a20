"""README.md and docs/ say what the code says."""

import re
from pathlib import Path

import pytest
import readme_reference
import yaml

from semievol_ray import configfile
from semievol_ray.config import RunConfig
from semievol_ray.study.settings import StudyConfig

TEXT = "\n".join(page.read_text(encoding="utf-8") for page in readme_reference.PAGES)
REMEDY = "docs/ is behind the code: run `make readme`"
LINES_OF_README = 400
"""More belongs into docs/."""


def block(name: str) -> str:
    return TEXT.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0].strip()


@pytest.mark.parametrize("name", sorted(readme_reference.BLOCKS))
def test_readme_generated_block_is_what_the_code_makes_now(name: str) -> None:
    assert block(name) == readme_reference.BLOCKS[name][1](), REMEDY


def test_readme_reference_has_a_row_with_its_default_for_every_leaf_of_a_resolved_config() -> None:
    config = RunConfig(name="r", task="wordnet", data={"labeled": "a.csv", "unlabeled": "b.csv"}, model="m")
    rows = {
        line.split("|")[1].strip(" `"): line.split("|")[3].strip(" `")
        for line in block("config-reference").splitlines()
    }
    for key, value in leaves(config.model_dump(mode="json")):
        is_part = any(row.startswith(f"{key}.") for row in rows)  # an optional part: its own leaves have rows
        assert key in rows or is_part, f"{key}: {REMEDY}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert float(rows[key]) == value, f"{key}: {REMEDY}"


def test_readme_file_map_lists_every_module_that_exists() -> None:
    listed = set(re.findall(r"`(semievol_ray/[\w/]+\.py)`", block("file-map")))
    assert listed == {
        p.relative_to(readme_reference.ROOT).as_posix() for p in Path(configfile.__file__).parent.rglob("*.py")
    }


def test_readme_yaml_examples_that_name_a_run_are_valid_configurations() -> None:
    examples = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)]
    whole = [example for example in examples if "name" in example]
    studies = [example for example in whole if "base" in example]
    assert len(whole) - len(studies) >= 2
    assert studies
    for example in whole:
        if example in studies:
            StudyConfig.model_validate(example)
        else:
            configfile.parse(example, "README.md")


@pytest.mark.parametrize("page", readme_reference.PAGES, ids=lambda page: page.name)
def test_readme_links_lead_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_is_for_the_first_ten_minutes() -> None:
    readme = readme_reference.PAGES[0].read_text(encoding="utf-8")
    assert readme.count("\n") <= LINES_OF_README
    assert [page.name for page in readme_reference.PAGES[1:] if f"(docs/{page.name})" not in readme] == []


def leaves(tree: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """The dotted keys of a resolved configuration with their values; lists and mappings of arguments stay whole."""
    found: list[tuple[str, object]] = []
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found += leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found
