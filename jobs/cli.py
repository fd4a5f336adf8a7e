"""The command line: ``rgals COMMAND``. Every command makes one library call."""

import sys

import typer

from jobs import (
    api_key,
    compare,
    demo,
    describe,
    doctor,
    download,
    evaluate,
    ingest,
    plan,
    publish,
    recommend,
    rollback,
    serve,
    similar,
    synthesize,
    train,
    tune,
    versions,
)
from rgals.errors import RgalsError

__all__ = ["app", "main"]

app = typer.Typer(
    name="rgals",
    help="Train, evaluate and query recommenders with the RG2 and RGx losses.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo.demo)
app.command("synthesize")(synthesize.synthesize)
app.command("download")(download.download)
app.command("doctor")(doctor.doctor)
app.command("ingest")(ingest.ingest)
app.command("describe")(describe.describe)
app.command("plan")(plan.plan)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("recommend")(recommend.recommend)
app.command("similar")(similar.similar)
app.command("publish")(publish.publish)
app.command("versions")(versions.versions)
app.command("rollback")(rollback.rollback)
app.command("serve")(serve.serve)
app.command("api-key")(api_key.api_key)


def main() -> None:
    """Run a command; a known error goes to standard error with exit code 1."""
    try:
        app()
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
