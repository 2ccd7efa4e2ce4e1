"""Text that speaks to an agent: a short list of patterns, and no more than that.

No maintained detector fits: see docs/decisions/0011. Whoever knows the list can write around it,
and a note about prompts is found as well; so the rule is advisory unless a policy says otherwise.
Each pattern is bounded, so that no text makes it slow.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from hdev_memory.core.characters import is_hidden
from hdev_memory.core.policy import Hit
from hdev_memory.core.rules import InstructionLikeText
from hdev_memory.detect import Detector

PATTERNS = {
    "an order to ignore earlier instructions": (
        r"\b(?:ignore|disregard|forget|override|bypass)\s{1,20}"
        r"(?:(?:all|any|every|the|your|my|our|of|these|those)\s{1,20}){0,4}"
        r"(?:previous|prior|earlier|above|preceding|former|existing|system|original)\s{1,20}"
        r"(?:\w{1,20}\s{1,20}){0,2}"
        r"(?:instructions?|prompts?|rules?|directions?|messages?|guidelines?|context)\b"
    ),
    "a new role for the reader": (
        r"\byou\s{1,20}are\s{1,20}now\s{1,20}(?:an?|the|in)\b"
        r"|\b(?:act|behave)\s{1,20}as\s{1,20}(?:if\s{1,20}you|(?:an?|the)\s{1,20}"
        r"(?:system|root|admin\w{0,12}|developer))\b"
        r"|\bpretend\s{1,20}(?:to\s{1,20}be|(?:that\s{1,20})?you\s{1,20}are)\b"
    ),
    "an order to keep something from people": (
        r"\b(?:do\s{1,20}not|don['\u2019]t|never)\s{1,20}"
        r"(?:tell|inform|alert|notify|mention\s{1,20}(?:this|it)\s{1,20}to|"
        r"(?:reveal|show|say)\s{1,20}(?:this|it|that)\s{1,20}to)\s{1,20}"
        r"(?:the\s{1,20}|any\s{1,20})?(?:users?|humans?|operators?|anyone|people)\b"
    ),
    "a question for hidden instructions": (
        r"\b(?:reveal|print|repeat|output|show|leak|quote)\s{1,20}(?:me\s{1,20})?(?:your|the)"
        r"\s{1,20}(?:system|initial|hidden|original|secret)\s{1,20}(?:prompts?|instructions?)\b"
    ),
    "a marker of a chat's roles": (
        r"<\|[a-z_]{2,30}\|>|\[/?INST\]|<</?SYS>>"
        r"|^[ \t]{0,8}(?:\#{1,6}[ \t]{1,4})?(?:system|assistant|developer)[ \t]{0,4}:(?=[ \t\n])"
    ),
    "an imitation of a tool's call or result": (
        r"</?(?:\w{1,20}:)?(?:function_calls?|function_results?|invoke|tool_use|tool_calls?|"
        r"tool_results?|tool_responses?)\b"
        r'|"(?:tool_calls|function_call|tool_use_id)"\s{0,20}:'
    ),
    "a comment that a rendered page hides": r"<!--|^\[//\]:\s{1,4}\#",
    "a data URL": r"\bdata:[a-z]{1,20}/[a-z0-9.+-]{1,60}[;,]",
    "a download that goes into a shell": (
        r"\b(?:curl|wget)\s[^\n|]{0,200}\|\s{0,20}(?:sudo\s{1,20})?(?:ba|z|da)?sh\b"
    ),
}
"""What it is, in words -> how it looks."""

_COMPILED = tuple((what, re.compile(form, re.I | re.M)) for what, form in PATTERNS.items())
_ASCII = re.compile(r"[\n\r\t -~]*")


def detector(rule: InstructionLikeText) -> Detector:
    return look


def look(text: str) -> Iterator[Hit]:
    plain = text if _ASCII.fullmatch(text) else _plain(text)
    for what, form in _COMPILED:
        at, line = 0, 1
        for found in form.finditer(plain):
            line += plain.count("\n", at, found.start())
            at = found.start()
            yield Hit(line=line, what=what)


def _plain(text: str) -> str:
    """The text as it is read: full-width letters as ordinary ones, hidden characters left out."""
    kept = (char for char in text if char in "\n\r\t" or not is_hidden(char) or char == "\u00a0")
    return unicodedata.normalize("NFKC", "".join(kept))
