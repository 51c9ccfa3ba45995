"""README's table and the help pages say what the table of annotators says."""

import pytest

from annotators import docs
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
