"""The index of papers and the bibliography agree with each other and with the tree."""

import re
from pathlib import Path

import pytest

import qtrain
from qtrain import citation, papers, recipes

ROOT = Path(__file__).resolve().parents[1]
CITED = re.compile(r"\[([a-z]+\d{4}[a-z0-9-]*|p3109|ieee754-2019)[,;\]]")


def test_sixteen_papers_with_entries():
    keys = [paper.key for paper in papers.PAPERS]
    assert len(set(keys)) == 16
    assert set(keys) <= set(citation.entries())


@pytest.mark.parametrize("paper", [p for p in papers.PAPERS if p.code], ids=lambda p: p.key)
def test_code_of_a_built_paper(paper):
    """Its files exist, and its first one is the recipe that the command runs."""
    assert all((ROOT / file).is_file() for file in paper.code)
    assert paper.code[0] == f"qtrain/recipes/{paper.key}.py"
    assert recipes.get(paper.key).recipe().key == paper.key


def test_every_recipe_is_indexed():
    files = {path.stem for path in (ROOT / "qtrain" / "recipes").glob("*[0-9]*.py")} - {"float32"}
    assert files == {paper.key for paper in papers.PAPERS if paper.code}


def test_every_citation_has_an_entry():
    known = citation.entries()
    for folder in ("qtrain", "theory", "paper_figs", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for key in CITED.findall(path.read_text(encoding="utf-8")):
                assert key in known, f"{path}: {key}"


def test_cite():
    entry = qtrain.cite("wang2018fp8")
    assert entry.startswith("@inproceedings{wang2018fp8,")
    assert "7675--7684" in entry
    with pytest.raises(ValueError, match="no reference 'wang2018'; did you mean wang2018fp8"):
        qtrain.cite("wang2018")
