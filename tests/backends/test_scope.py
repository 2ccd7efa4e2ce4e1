"""The patterns by which keys are chosen: they mean what gitignore says, in bounded time."""

import subprocess
import sys

import pathspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import examples

from hdev_memory.backends.base import Scope

PATTERNS = st.text("ab*?/[]!\\\\.(+{", max_size=14).filter(lambda text: "[!" not in text)
LIKELY = st.lists(
    st.sampled_from(["a", "b", "*", "**", "?", "/", "/**/", "[ab]", "a*b*", "\\\\*"]), max_size=9
).map("".join)
KEYS = st.lists(st.text("ab.*[(", min_size=1, max_size=6), min_size=1, max_size=5).map("/".join)


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")  # the library's own
@settings(max_examples=examples(300))
@given(LIKELY | PATTERNS, st.lists(KEYS, min_size=1, max_size=8))
def test_a_pattern_chooses_what_its_library_says(pattern, keys):
    try:
        plain = pathspec.GitIgnoreSpec.from_lines([pattern])
    except ValueError:
        with pytest.raises(ValueError, match="pattern"):
            Scope((pattern,))
        return
    scope = Scope((pattern,))

    assert [scope.entry(key) for key in keys] == [plain.match_file(key) for key in keys]


def test_a_bracket_matches_no_slash():
    assert not Scope(("a[!x]b",)).entry("a/b")
    assert Scope(("a[!x]b",)).entry("a-b")


HOSTILE = {
    "stars in a name": ("*a" * 30 + "*b", "a" * 1000),
    "stars and marks": ("*?" * 30 + "*b", "a" * 1000),
    "stars and brackets": ("*[!b]" * 30 + "*b", "a" * 1000),
    "stars beside stars": ("a" + "**" * 30 + "b", "a" * 1000),
    "folders": ("a/**/" * 30 + "b", "a/" * 500 + "a"),
    "folders anywhere": ("**/a/" * 30 + "*b", "a/" * 500 + "a"),
    "both": ("**/*a*a/" * 10 + "*a*b", "aaa/" * 250 + "a"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_pattern_takes_for_ever(name):
    """In a program of its own, because an expression that runs cannot be stopped."""
    code = "import sys; from hdev_memory.backends.base import Scope; "
    code += "sys.exit(Scope((sys.argv[1],)).entry(sys.argv[2]))"

    assert subprocess.run([sys.executable, "-c", code, *HOSTILE[name]], timeout=50).returncode == 0
