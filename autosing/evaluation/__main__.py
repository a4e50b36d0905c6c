"""`python -m autosing.evaluation builtin|alignment|lines|repair ...`: prints progress, then one JSON object as the last line; `card` makes MODEL_CARD.md of it."""

import sys

from autosing.registry import Registry

EVALUATIONS = Registry(
    "evaluation",
    {
        "builtin": "autosing.evaluation.builtin:main",
        "alignment": "autosing.evaluation.alignment:main",
        "card": "autosing.evaluation.card:main",
        "lines": "autosing.evaluation.lines:main",
        "repair": "autosing.evaluation.repair:main",
    },
)


def main(argv: list[str]) -> int:
    from autosing.errors import ConfigError

    try:
        chosen = EVALUATIONS.get(argv[0] if argv else "")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return chosen(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
