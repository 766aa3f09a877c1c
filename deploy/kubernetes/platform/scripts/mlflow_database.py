"""Prepare what MLflow stores its state in: mlflow_database.py migrate, or wait until it has been.

migrate: creates the bucket, brings both databases to the newest schema, and sets the passwords of
the administrator and of the user that runs log in with. Both commands wait for their servers. It is
a file of its own, without the service: pods mount it. The environment says where the servers are,
and has the passwords: PGHOST, PGUSER, PGPASSWORD, MLFLOW_S3_ENDPOINT_URL, AWS_*,
MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_AUTH_ADMIN_PASSWORD.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import sqlalchemy
from alembic.script import ScriptDirectory

# libpq completes the addresses from the environment. Alembic keeps a schema's version in the table.
DATABASES = {
    "postgresql+psycopg2:///mlflow": "alembic_version",
    "postgresql+psycopg2:///mlflow_auth": "alembic_version_auth",
}
BUCKET = "mlflow"
# As in basic_auth.ini.
ADMIN = "admin"
POLL_S = 5.0
TIMEOUT_S = 1800.0


def migrate(databases: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Create what is missing; safe to repeat, also after an interruption."""
    tracking, users = databases
    until_true(lambda: all(map(answers, databases)), "the databases do not answer")
    subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", tracking], check=True)
    upgrade_users = ["-m", "mlflow.server.auth", "db", "upgrade", "--url", users]
    subprocess.run([sys.executable, *upgrade_users], check=True)
    name, password = (environment[f"MLFLOW_TRACKING_{key}"] for key in ("USERNAME", "PASSWORD"))
    set_user(users, name, password)
    # The server makes its administrator once, and then no longer reads the password.
    set_user(users, ADMIN, environment["MLFLOW_AUTH_ADMIN_PASSWORD"], is_admin=True)
    until_true(
        lambda: create_bucket(environment["MLFLOW_S3_ENDPOINT_URL"]), "the store does not answer"
    )


def wait(databases: Mapping[str, str]) -> None:
    """Wait until both databases have the schema that this MLflow needs."""
    newest = newest_revisions()
    until_true(
        lambda: all(
            answers(uri) and schema_revision(uri, table) == revision
            for (uri, table), revision in zip(databases.items(), newest, strict=True)
        ),
        "the Job mlflow-database has not migrated the databases",
    )


def until_true(is_done: Callable[[], bool], problem: str, timeout_s: float = TIMEOUT_S) -> None:
    """Call ``is_done`` until it says so.

    Raises:
        SystemExit: after ``timeout_s``, with ``problem``.
    """
    deadline_s = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"mlflow_database: {problem}, after {timeout_s:g} s")
        print(f"mlflow_database: {problem}; waiting", flush=True)
        time.sleep(POLL_S)


def answers(uri: str) -> bool:
    """Whether a database can be connected to."""
    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    except sqlalchemy.exc.OperationalError:
        return False
    finally:
        engine.dispose()
    return True


def schema_revision(uri: str, table: str) -> str | None:
    """The version of a database's schema, from Alembic's table; None if there is none yet."""
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table(table):
                return None
            columns = sqlalchemy.table(table, sqlalchemy.column("version_num"))
            return connection.execute(sqlalchemy.select(columns)).scalar()
    finally:
        engine.dispose()


def newest_revisions() -> list[str | None]:
    """The versions of the schemas that the installed MLflow needs: of tracking, of users."""
    import mlflow.server.auth.db
    import mlflow.store

    folders = (
        f"{mlflow.store.__path__[0]}/db_migrations",
        f"{mlflow.server.auth.db.__path__[0]}/migrations",
    )
    return [ScriptDirectory(folder).get_current_head() for folder in folders]


def set_user(uri: str, name: str, password: str, *, is_admin: bool = False) -> None:
    """Create a user, or set its password."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(uri)
    if store.has_user(name):
        store.update_user(name, password=password)
    else:
        store.create_user(name, password, is_admin)


def create_bucket(endpoint: str) -> bool:
    """Create the bucket unless there is one; False while the store does not answer."""
    import boto3
    from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    try:
        client.create_bucket(Bucket=BUCKET)
    except ClientError as error:
        if error.response["Error"]["Code"] not in (
            "BucketAlreadyOwnedByYou",
            "BucketAlreadyExists",
        ):
            raise
    except (EndpointConnectionError, HTTPClientError):
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1:] == ["migrate"]:
        migrate(DATABASES, os.environ)
    elif sys.argv[1:] == ["wait"]:
        wait(DATABASES)
    else:
        sys.exit("usage: mlflow_database.py migrate | wait")
