"""Writes personal_golden.json: how datatrove masks mail and network addresses.

    python tests/data/render_personal_golden.py [TEXTS]

Needs datatrove (0.10.1) in an environment of its own. Addresses stand between spaces or marks, and
domains are ones that exist: elsewhere datatrove also masks parts of longer numbers (versions,
dotted numbers of five parts), domains such as `b.7`, and the beginning of `b.a-.org`, which gptjax
leaves. With a number of texts it writes nothing and compares that many.
"""

import json
import random
import sys
from pathlib import Path

from datatrove.pipeline.formatters.pii import PIIFormatter

from gptjax.data.clean.personal import masked

THEIRS = PIIFormatter(email_replacement="|||EMAIL_ADDRESS|||", ip_replacement="|||IP_ADDRESS|||")
WORDS = ("the", "call", "v1.2", "see:", "(", "<", "http://", "\n", "mailto:")
AFTER = ("", " ", ",", ")", ":80", "/x", "?", ";")
OCTETS = (0, 1, 8, 10, 25, 100, 127, 169, 172, 192, 168, 198, 203, 224, 240, 255)


def mail(rng):
    name = "".join(rng.choices("abcXYZ019.+-_'", k=rng.randint(1, 8)))
    labels = [
        f"{rng.choice('abcd01')}{rng.choice(('', '-9', '0b'))}" for _ in range(rng.randint(1, 3))
    ]
    end = rng.choice(("com", "org", "co.uk", "museum"))
    return f"{name}{rng.choice('@@@@#')}{'.'.join([*labels, end])}"


def address(rng):
    return ".".join(str(rng.choice((*OCTETS, rng.randint(0, 255)))) for _ in range(4))


def text(rng):
    found = (rng.choice((mail, address))(rng) + rng.choice(AFTER) for _ in range(2))
    return " ".join(f"{rng.choice(WORDS)} {one}" for one in found)


def cases(count):
    rng = random.Random(5)
    return [(one, THEIRS.format(one)) for one in (text(rng) for _ in range(count))]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        found = cases(int(sys.argv[1]))
        other = [
            (one, theirs, ours)
            for one, theirs in found
            if (ours := masked(one, ("mail", "ipv4"))[0]) != theirs
        ]
        print(f"{len(found) - len(other)} of {len(found)} alike")
        for case in other[:10]:
            print(case)
    else:
        path = Path(__file__).with_name("personal_golden.json")
        path.write_text(json.dumps(cases(150), indent=0) + "\n")
