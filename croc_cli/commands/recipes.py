"""`croc recipes`: list the recipes that ship, show one resolved, check one."""

import os
import sys
from typing import Annotated

import typer

recipes_app = typer.Typer(help="List, show and check recipes.", no_args_is_help=True)

Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value, such as reconstruct.pool.size=1024. Repeatable."
    ),
]


@recipes_app.command("list", epilog="Example: croc recipes list")
def list_recipes() -> None:
    """List the recipes that ship with croc."""
    from croc_cli.recipe.show import shipped_recipes

    recipes = shipped_recipes()
    width = max(len(recipe.name) for recipe in recipes)
    folder = ""
    for name, description in recipes:
        if (parent := name.rpartition("/")[0]) != folder:
            folder = parent
            typer.echo(f"\n{folder}:")
        typer.echo(f"{name:<{width}}  {description}".rstrip())


@recipes_app.command(epilog="Example: croc recipes show nano --set reconstruct.pool.size=64")
def show(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a file.")],
    settings: Setting = None,
) -> None:
    """Print a recipe with every value, and where each came from."""
    from croc_cli.console import with_warnings
    from croc_cli.recipe.load import load_recipe, with_overrides
    from croc_cli.recipe.show import render

    loaded = with_warnings(load_recipe(recipe, overrides=with_overrides({}, settings or ())))
    is_styled = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    typer.echo(render(loaded, dim=_dim if is_styled else str), nl=False)


@recipes_app.command(epilog="Example: croc recipes check nano")
def check(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a file.")],
    settings: Setting = None,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Check the recipe alone, not whether its files and folders are there.")
    ] = False,
) -> None:
    """Check a recipe without starting anything; all that is wrong is listed at once, with exit code 2.

    Files and folders that are not there are warnings: they may lie on another machine, or be made later.
    """
    from croc_cli.console import result, say, say_notes
    from croc_cli.launch.places import missing_places
    from croc_cli.recipe.find import shown_path
    from croc_cli.recipe.load import load_recipe, with_overrides
    from croc_cli.recipe.paths import PATHS_START

    loaded = load_recipe(recipe, overrides=with_overrides({}, settings or ()))
    say_notes(loaded)
    missing = [] if no_data else missing_places(loaded.recipe)
    for line in missing:
        say(f"warning: {line}")
    if missing:
        say(f"hint: {PATHS_START}; --no-data leaves these checks out")
    result(f"ok: {shown_path(loaded.file)}")


def _dim(text: str) -> str:
    return typer.style(text, dim=True)
