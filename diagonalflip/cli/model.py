"""``diagonalflip model``: show and change the versions of a server, for its operator."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from diagonalflip._loopback import is_loopback
from diagonalflip.cli.exits import complain, say
from diagonalflip.cli.target import AsJson, Raw, Target
from diagonalflip.client import _answers
from diagonalflip.client._endpoint import quoted
from diagonalflip.errors import InsecureConnection, InvalidAnswer

DEFAULT_URL = "http://127.0.0.1:8083"
EXPECTED = "the server's versions", ("default", "canary", "percent", "kept", "models")
State = Mapping[str, Any]
"""The versions of a server, as its admin port answers."""


Url = Annotated[
    str | None, typer.Argument(metavar="[URL]", help=f"The admin port; by default {DEFAULT_URL}.")
]
Version = Annotated[str, typer.Argument(help="A version of the model store.")]

app = typer.Typer(help="Load, unload, switch and roll back versions of the model.")


@app.command("list")
def show(context: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """Show all versions of the model store."""
    with _admin(context, url) as server:
        state = _answers.document(server.send(b"", {}, "/models", "GET"), *EXPECTED)
    _print(state, _table, as_json=as_json)


def _add_change(name: str, text: str) -> None:
    """Add a subcommand that asks for a change of one version."""

    @app.command(name, help=text)
    def change(
        context: typer.Context, version: Version, url: Url = None, as_json: AsJson = False
    ) -> None:
        _change(context, url, f"{quoted(version)}/{name}", as_json=as_json)


_add_change("load", "Serve a version of the model store as well, once every worker has checked it.")
_add_change("unload", "Serve a version no more. It stays in the model store.")
_add_change("default", "Have a served version answer where none is named.")


@app.command()
def canary(
    context: typer.Context,
    version: Version,
    percent: Annotated[int, typer.Argument(min=0, max=100, help="0 ends it.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Have a served version answer a share of the requests that name no version."""
    _change(context, url, f"{quoted(version)}/canary/{percent}", as_json=as_json)


@app.command()
def rollback(context: typer.Context, url: Url = None, as_json: AsJson = False) -> None:
    """End a canary, or else go back to the default before; repeated, it changes nothing."""
    if not _change(context, url, "rollback", as_json=as_json).get("changed", True):
        complain("there is nothing further to roll back to: name it by `model default VERSION`")


def _admin(context: typer.Context, url: str | None) -> AbstractContextManager[Raw]:
    """Return the server of the argument or of ``--url``; the variable names another port."""
    target: Target = context.obj
    source = context.find_root().get_parameter_source("url")
    is_given = source is not None and source.name == "COMMANDLINE"
    return target.raw(url or (target.url if is_given else DEFAULT_URL))


def _change(context: typer.Context, url: str | None, change: str, *, as_json: bool) -> Any:
    """Ask for a change, without retries: `model list` shows whether it was made."""
    with _admin(context, url) as server:
        address = urlsplit(server.url)
        if address.scheme == "http" and not is_loopback(address.hostname or ""):
            raise InsecureConnection(
                f"a token sent to {server.url} could be read by others",
                "a loopback address, or https",
                "run this command on that host, or through ssh -L or kubectl port-forward",
            )
        state = _answers.document(server.send(b"", {}, f"/models/{change}"), *EXPECTED)
    _print(state, _summary, as_json=as_json)
    if not state["kept"]:
        reason = "the model store cannot be written, or FLIP_DEFAULT_VERSION says otherwise"
        complain(f"the next start knows nothing of this: {reason}")
    return state


def _print(state: State, form: Callable[[State], list[str]], *, as_json: bool) -> None:
    try:
        lines = [json.dumps(state)] if as_json else form(state)
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidAnswer(f"an answer of another form: {error!r}", EXPECTED[0]) from error
    for line in lines:
        say(line)


def _table(state: State) -> list[str]:
    lines = [f"{'version':<12}{'served':<10}{'flips':<10}{'signed':<8}digest"]
    for model in state["models"]:
        version = model["version"]
        served = "default" if version == state["default"] else "yes" if model["loaded"] else "no"
        line = f"{version:<12}{served:<10}"
        if "fault" in model:
            line += model["fault"]
        else:
            signed, flips = "yes" if model["signed"] else "no", f"{model['flips']} of 16"
            line += f"{flips:<10}{signed:<8}{model['digest'][:12]}"
        lines.append(line)
    return lines


def _summary(state: State) -> list[str]:
    others = [
        model["version"]
        for model in state["models"]
        if model["loaded"] and model["version"] != state["default"]
    ]
    share = f"; canary {state['canary']}: {state['percent']} %" if state["canary"] else ""
    also = f"; also served: {', '.join(others)}" if others else ""
    return [f"default {state['default']}{share}{also}"]
