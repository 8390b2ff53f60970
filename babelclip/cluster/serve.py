"""The service on Ray Serve, for who has a Ray cluster: the same application, in replicas that Ray starts and watches.

Without Ray, replicas are `babelclip serve` on several machines behind a proxy (docs/scale.md); that needs less, and is
what is recommended. Here Ray's own proxy stands before them, and Ray Serve does the rest: it restarts what dies, and
starts as many as are asked for.

    from ray import serve
    settings = Settings({"photos": "s3://bucket/photos.lance"}, models=("model",), hosts=("pictures.example.org",))
    serve.run(replicas(settings, shared_secret("/shared/secret"), count=3), name="babelclip")

Entry point: `replicas`. Wants `ray[serve]` beside the extras `search` and `cluster`.
"""

from __future__ import annotations

from typing import Any

from babelclip.errors import BabelclipError, MissingExtraError
from babelclip.search.server.settings import Settings, check_settings

# Requests that a replica works at or has in its queue; beyond these Ray's proxy waits. The gate of the application
# refuses at 128, and its batcher wants several at once.
_AT_ONCE = 64
_HEALTH_SECONDS, _GRACE_SECONDS = 10.0, 15.0


def replicas(settings: Settings, secret: bytes, *, count: int = 2, cpus: float = 1.0, gpus: float = 0.0) -> Any:
    """Returns an application of Ray Serve, for `serve.run`: `count` replicas of the service.

    Each replica opens models and collections by itself, so their addresses must be good on every machine of the
    cluster: folders that all share, or `s3://`. Changes of a collection are jobs of the replica that was asked; where
    they matter, ask one service of your own for them.

    Args:
        settings: as of `babelclip serve`; host and port are Ray's matter (`serve.start(http_options=...)`), and
            `trusted_proxies` names the machines on which its proxies run.
        secret: signs cursors and addresses; the same for all (`search.server.secret.shared_secret`).
        count: of replicas.
        cpus: of each.
        gpus: of each.

    Raises:
        BabelclipError: the settings are refused, or there is no replica or no secret.
        MissingExtraError: Ray Serve is not installed.
    """
    check_settings(settings)
    if count < 1 or not secret:
        raise BabelclipError(
            f"{count} replicas with a secret of {len(secret)} bytes were asked for; there must be 1 or more, and all "
            "of them share a secret. Pass shared_secret(FILE)."
        )
    serve = _ray_serve()
    text = settings.to_json()

    def build() -> Any:
        """Returns the application, in the replica."""
        from babelclip.search.server.app import create_app
        from babelclip.search.server.service import open_service

        return create_app(open_service(Settings.from_json(text), secret))

    wrapped = serve.ingress(build)()
    return serve.deployment(
        wrapped,
        name="babelclip",
        num_replicas=count,
        max_ongoing_requests=_AT_ONCE,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        health_check_period_s=_HEALTH_SECONDS,
        graceful_shutdown_timeout_s=_GRACE_SECONDS,
    ).bind()


def _ray_serve() -> Any:
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError(
            f"Ray Serve is not installed ({error}), and --launcher ray alone does not bring it. "
            "Install it: pip install 'babelclip[search,cluster]' 'ray[serve]'"
        ) from error
    return serve
