"""``vad describe evaluate``: multiple-choice questions with known answers, to several endpoints and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vad_dagster.cli.console import console, shown_progress
from vad_dagster.cli.lines import existing_line
from vad_dagster.cli.words_training import PrompterFolder, load_prompted
from vad_lib.atomic_files import write_whole
from vad_lib.errors import InputError

if TYPE_CHECKING:
    from vad_lib.progress import Progress
    from vad_lib.words.client import Client
    from vad_lib.words.endpoint import Endpoint
    from vad_lib.words.evaluation import Answered, Ask, Question

REPLY_TOKENS = 1000
"""Most tokens of a reply: room for a model that thinks before it names a letter."""


def evaluate(
    name: Annotated[str, typer.Argument(help="Name of the line. With --mmad it is not needed.")] = "",
    mmad: Annotated[
        Path | None, typer.Option(help="A local copy of MMAD, mmad.json and the folders of images, in a line's place.")
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL[@URL]",
            help="A model of the endpoint that the settings name, or of another one; may be given several times. "
            "Default: the model that the settings name.",
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Also a local model with the prompts that were learnt on the line.")
    ] = None,
    prompter: PrompterFolder = None,
    images: Annotated[int, typer.Option(min=0, help="Images to ask about; 0 takes all.")] = 50,
    shots: Annotated[int, typer.Option(min=0, max=8, help="Normal images that are shown before each.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the choice of images and the order of options.")] = 0,
    allow_images_to_leave: Annotated[
        bool, typer.Option("--allow-images-to-leave", help="With --mmad: its pictures may go to another machine.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the tables go.")] = Path("var/words_evaluation"),
) -> None:
    """Measure answers in words: questions from a line's own table, or from MMAD, and the figures side by side.

    A line is asked for anomalies, for their kinds, and for their places where there are masks. What is right is known.
    """
    from vad_lib.words.client import Client
    from vad_lib.words.evaluation import ask_all

    if (mmad is None) == (not name):
        raise InputError("Name a line, or give --mmad with the folder of a copy of MMAD.")
    if model is not None and not name:
        raise InputError("Prompts are learnt on a line: --model goes with the name of one.")
    with shown_progress(f"asking about {name or mmad}") as show:
        questions, may_leave = _questions(name, mmad, images, shots, seed, show)
        found: dict[str, list[Answered]] = {}
        local_only = model is not None and not ask
        for endpoint in () if local_only else _endpoints(ask or []):
            endpoint.require_leave(name or str(mmad), may_leave or (mmad is not None and allow_images_to_leave))
            with closing(Client(endpoint)) as client:
                found[f"{endpoint.model} at {endpoint.url}"] = ask_all(_asked_by(client), questions, show)
            _write(found, out)
        if model is not None:
            prompted = load_prompted(existing_line(name), model, prompter)
            found[f"{model.name} with learnt prompts"] = ask_all(prompted.ask, questions, show)
            _write(found, out)
    console.print(_write(found, out), markup=False)
    console.print(f"\nEach question and reply: {out / 'answers.csv'}", markup=False)


def _questions(
    name: str, mmad: Path | None, images: int, shots: int, seed: int, show: Progress
) -> tuple[list[Question], bool]:
    """Return the questions, and whether the line's pictures may leave this machine."""
    from vad_dagster.plans import plan_of, rows_of_next_training
    from vad_lib.words.evaluation import line_questions, mmad_questions

    if mmad is not None:
        return mmad_questions(mmad, most_images=images, shots=shots, seed=seed), False
    line = existing_line(name)
    plan = plan_of(line)
    dataset = rows_of_next_training(line, plan, show)
    questions = line_questions(dataset, most_images=images, shots=shots, seed=seed)
    return questions, plan.operation.allow_images_to_leave


def _endpoints(asked: Sequence[str]) -> list[Endpoint]:
    """Return the endpoints that ``MODEL[@URL]`` name; the secret of the settings goes to their own address only."""
    from dataclasses import replace

    from vad_lib.words.endpoint import Endpoint

    if not asked:
        return [Endpoint.required()]
    found = []
    for text in asked:
        model, at, url = text.rpartition("@http")
        if not at:
            found.append(replace(Endpoint.required(), model=text))
            continue
        url = f"http{url}".rstrip("/")
        own = Endpoint.of_settings()
        found.append(replace(own, model=model) if own is not None and own.url == url else Endpoint(url, model))
    return found


def _asked_by(client: Client) -> Ask:
    from vad_lib.words.evaluation import messages_of

    return lambda pictures, text: client.ask(messages_of(pictures, text), most_tokens=REPLY_TOKENS).text


def _write(found: Mapping[str, Sequence[Answered]], out: Path) -> str:
    """Write what there is so far, and return the table of figures as text."""
    from vad_lib.artifacts.tables import write_csv
    from vad_lib.comparison.pages import as_markdown
    from vad_lib.words.evaluation import answer_table, side_by_side

    out.mkdir(parents=True, exist_ok=True)
    table = side_by_side(found)
    write_csv(answer_table(found), out / "answers.csv")
    write_csv(table, out / "results.csv")
    text = as_markdown(table)
    write_whole(out / "results.md", f"{text}\n".encode())
    return text
