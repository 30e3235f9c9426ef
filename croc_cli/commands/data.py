"""`croc data`: from the world's files to what a recipe trains on."""

import typer

from croc_cli.commands import data_fetch, data_mix, data_prepare, data_show, data_sources, data_stats, data_verify
from croc_cli.commands.groups import CrocGroup

data_app = typer.Typer(
    cls=CrocGroup,
    help="Get, mix, check and look at training data.",
    epilog="Example: croc data mix croc-7b --stage reconstruct",
    no_args_is_help=True,
)
data_app.command(epilog=data_prepare.EPILOG)(data_prepare.prepare)
data_app.command(epilog=data_sources.EPILOG)(data_sources.sources)
data_app.command(epilog=data_fetch.EPILOG)(data_fetch.fetch)
data_app.command(epilog=data_mix.EPILOG)(data_mix.mix)
data_app.command(epilog=data_verify.EPILOG)(data_verify.verify)
data_app.command(epilog=data_stats.STATS_EPILOG)(data_stats.stats)
data_app.command(epilog=data_show.EPILOG)(data_show.show)
data_app.command(epilog=data_stats.EXPORT_EPILOG)(data_stats.export)


@data_app.callback()
def data() -> None:
    """Get, mix, check and look at training data."""
