"""MLflow's databases on a real Postgres: migration, users, backup and restore, as in the pods."""

import os
import signal
import subprocess
import sys
import time

import boto3
import pytest
import requests
from database_server import SCRIPTS, DatabaseServer, find_programs, free_port

pytestmark = pytest.mark.skipif(
    find_programs() is None, reason="Postgres is not installed (Debian: postgresql)"
)
START_LIMIT_S = 90.0
# What a run does: an experiment, a metric, an artifact, a model with an alias.
RUN = """
import mlflow
mlflow.set_experiment("dtkd")
with mlflow.start_run() as run:
    mlflow.log_metric("top1", 0.5)
    mlflow.log_text("text", "note.txt")
client = mlflow.MlflowClient()
client.create_registered_model("r18")
version = client.create_model_version("r18", f"{run.info.artifact_uri}/model", run.info.run_id)
client.set_registered_model_alias("r18", "candidate", version.version)
assert client.get_model_version_by_alias("r18", "candidate").run_id == run.info.run_id
"""


@pytest.fixture(scope="module")
def server():
    database = DatabaseServer()
    yield database
    database.close()


@pytest.fixture(scope="module")
def store():
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def environment(server, store):
    """The environment of the pods of MLflow and of its Job."""
    return {
        **server.environment,
        "MLFLOW_S3_ENDPOINT_URL": store,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_TRACKING_USERNAME": "runs",
        "MLFLOW_TRACKING_PASSWORD": "password-of-the-runs",
        "MLFLOW_AUTH_CONFIG_PATH": str(SCRIPTS / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "password-of-the-admin",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "key-of-the-forms",
    }


@pytest.fixture(scope="module")
def migrated(environment):
    script = [sys.executable, SCRIPTS / "mlflow_database.py"]
    subprocess.run([*script, "migrate"], env=environment, check=True)
    return environment


def test_migration_makes_what_the_server_waits_for_and_can_be_repeated(migrated, server, store):
    script = [sys.executable, SCRIPTS / "mlflow_database.py"]
    subprocess.run([*script, "wait"], env=migrated, check=True, timeout=60)
    names = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD")
    again = {**migrated, **dict.fromkeys(names, "another-password")}
    hashes = "SELECT password_hash FROM users ORDER BY username"
    before = server.query("mlflow_auth", hashes).split()
    subprocess.run([*script, "migrate"], env=again, check=True)
    users = server.query("mlflow_auth", "SELECT username, is_admin FROM users ORDER BY username")
    assert users.split() == ["admin|t", "runs|f"]
    after = server.query("mlflow_auth", hashes).split()
    assert len({*before, *after}) == 4
    subprocess.run([*script, "migrate"], env=migrated, check=True)
    buckets = _store_client(store).list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == ["mlflow"]


def test_server_takes_the_users_passwords_alone(migrated, store, tmp_path):
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--app-name", "basic-auth"),
        *("--backend-store-uri", "postgresql+psycopg2:///mlflow"),
        *("--artifacts-destination", "s3://mlflow/artifacts"),
    ]
    server = subprocess.Popen(command, env=migrated, cwd=tmp_path, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/health", server)
        experiments = f"{url}/api/2.0/mlflow/experiments/search?max_results=5"
        for credentials, status in (
            (None, 401),
            (("runs", "wrong"), 401),
            (("runs", migrated["MLFLOW_TRACKING_PASSWORD"]), 200),
            (("admin", migrated["MLFLOW_AUTH_ADMIN_PASSWORD"]), 200),
        ):
            assert requests.get(experiments, auth=credentials, timeout=30).status_code == status
        users = f"{url}/api/2.0/mlflow/users/create"
        new = {"username": "third", "password": "password-of-third"}
        as_run = ("runs", migrated["MLFLOW_TRACKING_PASSWORD"])
        assert requests.post(users, json=new, auth=as_run, timeout=30).status_code == 403
        # The client has no key of the store: the server passes artifacts on.
        client = {name: value for name, value in migrated.items() if not name.startswith("AWS_")}
        client |= {"MLFLOW_TRACKING_URI": url, "MLFLOW_S3_ENDPOINT_URL": ""}
        subprocess.run([sys.executable, "-c", RUN], env=client, check=True, timeout=120)
        objects = _store_client(store).list_objects_v2(Bucket="mlflow", Prefix="artifacts/")
        assert [entry["Key"].rpartition("/")[2] for entry in objects["Contents"]] == ["note.txt"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def test_changed_passwords_of_the_database_are_set(server):
    with pytest.raises(subprocess.CalledProcessError):
        server.query("mlflow", "SELECT 1", password="changed")
    server.set_passwords("changed")
    assert server.query("mlflow", "SELECT 1", password="changed") == "1"
    with pytest.raises(subprocess.CalledProcessError):
        server.query("mlflow", "SELECT 1")
    server.set_passwords(server.environment["PGPASSWORD"])


def test_backup_is_restored_and_the_newest_are_kept(migrated, server, tmp_path):
    backup = ["bash", SCRIPTS / "backup.sh", tmp_path]
    restore = ["bash", SCRIPTS / "restore.sh", tmp_path]
    keep_two = {**migrated, "NUM_TO_KEEP": "2"}
    for name in ("first", "second", "third"):
        server.query("mlflow", f"INSERT INTO registered_models (name) VALUES ('{name}')")
        subprocess.run(backup, env=keep_two, check=True)
        # Dumps are named by the second.
        time.sleep(1.1)
    dumps = sorted(path.name for path in tmp_path.iterdir())
    assert len(dumps) == 2
    # What a newer schema would have added, and what was written since.
    server.query("mlflow", "CREATE TABLE of_a_newer_schema (id integer)")
    hashes = server.query("mlflow_auth", "SELECT username, password_hash FROM users")
    server.query("mlflow_auth", "UPDATE users SET password_hash = ''")
    subprocess.run(restore, env={**migrated, "DUMP": dumps[0]}, check=True)
    names = "SELECT string_agg(name, ' ' ORDER BY name) FROM registered_models WHERE name <> 'r18'"
    assert server.query("mlflow", names) == "first second"
    assert server.query("mlflow", "SELECT to_regclass('of_a_newer_schema')") == ""
    assert "runs|" in hashes
    assert server.query("mlflow_auth", "SELECT username, password_hash FROM users") == hashes
    subprocess.run(restore, env=migrated, check=True)
    assert server.query("mlflow", names) == "first second third"
    script = [sys.executable, SCRIPTS / "mlflow_database.py", "wait"]
    subprocess.run(script, env=migrated, check=True, timeout=60)


def test_damaged_dump_changes_nothing(migrated, server, tmp_path):
    subprocess.run(
        ["bash", SCRIPTS / "backup.sh", tmp_path], env={**migrated, "NUM_TO_KEEP": "2"}, check=True
    )
    (dump,) = tmp_path.iterdir()
    whole = (dump / "mlflow.dump").read_bytes()
    (dump / "mlflow.dump").write_bytes(whole[: len(whole) * 3 // 4])
    count = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
    before = server.query("mlflow", count)
    done = subprocess.run(["bash", SCRIPTS / "restore.sh", tmp_path], env=migrated)
    assert done.returncode != 0
    assert server.query("mlflow", count) == before
    missing = subprocess.run(
        ["bash", SCRIPTS / "restore.sh", tmp_path],
        env={**migrated, "DUMP": "20200101T000000Z"},
        capture_output=True,
        text=True,
    )
    assert missing.returncode == 2
    assert "has no mlflow.dump; set DUMP to one of" in missing.stderr


def _store_client(endpoint):
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


def _wait_for(url, process):
    deadline_s = time.monotonic() + START_LIMIT_S
    while True:
        assert process.poll() is None
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            assert time.monotonic() < deadline_s
        time.sleep(0.5)
