"""Good files and words made worse, each way a function of a random generator: what strangers, disks and fingers do."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

WORDS = (
    *("", "0", "-1", "1e999", "-1e-320", "NaN", "inf", "null", "true", "[]", "{}", "[1,2]", "{a: 1}", "x", "'", '"'),
    *(
        "9" * 400,
        "1_0",
        "0x10",
        "2026-13-45",
        "é\u202e😀",
        "\x1b[31m",
        "\x00",
        "../../etc/passwd",
        "/dev/zero",
        "~",
        "*",
    ),
    *("!!python/object/apply:os.system [ls]", "&a [*a]", "a" * 5_000, "lab.cli:main", "os:system", "--help", "=", ","),
)
"""values that somebody has typed somewhere"""


def text(generator: random.Random, content: str) -> str:
    """A text with one or a few changes: words replaced, lines lost, doubled, moved, cut."""
    for _ in range(generator.choice((1, 1, 1, 2, 5))):
        lines = content.split("\n")
        at = generator.randrange(len(lines))
        kind = generator.randrange(7)
        if kind == 0:
            tokens = [match.span() for match in re.finditer(r"[\w.+-]+", content)]
            if tokens:
                start, end = generator.choice(tokens)
                content = content[:start] + generator.choice(WORDS) + content[end:]
            continue
        if kind == 1:
            del lines[at]
        elif kind == 2:
            lines.insert(at, generator.choice(lines))
        elif kind == 3:
            lines[at] = lines[at][: generator.randrange(len(lines[at]) + 1)]
        elif kind == 4:
            lines[at] = generator.choice(("  ", "\t", "- ", "[", "{")) + lines[at]
        elif kind == 5:
            content = content[: generator.randrange(len(content) + 1)]
            continue
        else:
            place = generator.randrange(len(content) + 1)
            content = content[:place] + generator.choice(WORDS) + content[place:]
            continue
        content = "\n".join(lines)
    return content


def binary(generator: random.Random, content: bytes) -> bytes:
    """Bytes with one change: bits flipped, a piece cut, zeroed, doubled, moved, or a number made extreme."""
    changed = bytearray(content)
    if not changed:
        return bytes(generator.randrange(256) for _ in range(10))
    kind, at = generator.randrange(7), generator.randrange(len(changed))
    size = generator.choice((1, 2, 8, 64, 4096))
    if kind == 0:
        for _ in range(generator.choice((1, 3, 30))):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        del changed[at : at + size]
    elif kind == 3:
        changed[at : at + size] = bytes(len(changed[at : at + size]))
    elif kind == 4:
        changed[at:at] = changed[at : at + size]
    elif kind == 5:
        changed[at : at + 4] = generator.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80"))
    else:
        head = min(len(changed), 128)  # where formats say what they hold
        changed[generator.randrange(head)] = generator.randrange(256)
    return bytes(changed)


def words(generator: random.Random, line: Sequence[str]) -> list[str]:
    """A command line with a word replaced, lost, doubled, moved, added, or changed in its inside."""
    changed = list(line)
    for _ in range(generator.choice((1, 1, 2))):
        at = generator.randrange(len(changed) + 1)
        kind = generator.randrange(5)
        if kind == 0 or not changed:
            changed.insert(at, generator.choice(WORDS).replace("\x00", ""))
            continue
        at = min(at, len(changed) - 1)
        if kind == 1:
            del changed[at]
        elif kind == 2:
            changed.insert(at, generator.choice(changed))
        elif kind == 3:
            name, equals, _ = changed[at].partition("=")
            changed[at] = f"{name}{equals}{generator.choice(WORDS)}".replace("\x00", "")
        else:
            changed[at] = text(generator, changed[at]).replace("\x00", "").replace("\n", " ")
    return changed
