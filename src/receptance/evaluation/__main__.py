"""`python -m receptance.evaluation ARGUMENTS`: the command line of lm-eval, with `--model receptance`."""

from __future__ import annotations

import sys


def main() -> None:
    """Register the model, and do what `lm-eval` does."""
    try:
        from lm_eval.__main__ import cli_evaluate

        from receptance.evaluation import harness  # noqa: F401  # importing it registers the model
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}: install lm-evaluation-harness: pip install receptance[evaluation]")
    cli_evaluate()


if __name__ == "__main__":
    main()
