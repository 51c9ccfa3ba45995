"""README's table and the help pages say what the table of annotators says."""

import pytest

from annotators import docs, sheet
from annotators.table import ANNOTATORS

AGAIN = "run: python -m annotators.docs"


def test_readmes_table_is_up_to_date():
    text = (docs.ROOT / "README.md").read_text("utf-8")
    assert docs.readme(text) == text, AGAIN


@pytest.mark.parametrize("annotator", ANNOTATORS.values(), ids=ANNOTATORS)
def test_help_pages_are_up_to_date(annotator):
    assert docs.page_path(annotator).read_text("utf-8") == docs.page(annotator), AGAIN


def test_a_readme_without_a_place_for_the_table_is_named():
    with pytest.raises(ValueError, match=r"README\.md has no"):
        docs.readme("# Something else")


def test_the_sheet_shows_every_annotator_that_needs_no_weights():
    tiles = dict(tile for row in sheet.tiles() for tile in row)
    needing_none = [one.title for one in ANNOTATORS.values() if not one.weights and not one.extra]
    assert set(needing_none) <= set(tiles)
    for title, picture in tiles.items():
        assert picture.min() >= 0 and picture.max() <= 1, title
        assert picture.std() > 0.05, f"{title} shows nothing"
