"""Production: who may deploy, what a deployment keeps, and whose its runs are."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest
from harness import LINEAR, MIDDLE, Script, flow_source, stop, wait_for

import flowstore
from flowstore import deploy, tokens
from flowstore.errors import FlowstoreError
from flowstore.run.snapshot import Sources
from flowstore.store import db, schema

PLAIN = flow_source(LINEAR, start="print('sees', current.namespace, flush=True)")
FACTS = flow_source(
    LINEAR,
    members="alpha = Parameter('alpha', default=0.5)\nfast = Parameter('fast', is_flag=True)",
    start="""
        names = ("username", "namespace", "is_production", "project_name", "branch_name", "project_flow_name")
        self.facts = {name: getattr(current, name) for name in names}
        self.tags = sorted(current.tags)
        """,
)
TRAIN = """
@project(name="birds")
class Train(FlowSpec):
    @step
    def start(self):
        self.model = MODEL
        self.next(self.end)

    @step
    def end(self):
        pass
"""
PREDICT = """
@project(name="birds")
class Predict(FlowSpec):
    @step
    def start(self):
        self.model = Flow("Train").latest_run.data.model
        self.next(self.end)

    @step
    def end(self):
        pass
"""


def project_source(body, name, **words):
    """The source of a flow of a project."""
    for word, value in words.items():
        body = body.replace(word, value)
    return f"from flowstore import *\n{body}\nif __name__ == '__main__':\n    {name}()\n"


class Person:
    """Somebody who calls a flow's command line: with a name and a home of their own."""

    def __init__(self, script, name):
        self.script = script
        self.name = name
        self.home = script.folder / f"home of {name}"
        self.environment = {"FLOWSTORE_USER": name, "FLOWSTORE_HOME": str(self.home)}

    def __call__(self, *args, expect=0, **environment):
        return self.script(*args, expect=expect, **self.environment, **environment)

    def deploy(self, *args, before=(), expect=0):
        """Deploy; gives the token that is told."""
        told = self(*before, "deploy", "create", *args, expect=expect)
        return re.search(r"^Production token: +(\S+)", told.stdout, re.MULTILINE)[1] if expect == 0 else told

    def flowstore(self, *args):
        """The command `flowstore`."""
        command = [sys.executable, "-m", "flowstore", *map(str, args)]
        subprocess.run(command, check=True, cwd=self.script.folder, env={**os.environ, **self.environment})

    def tokens(self):
        """The tokens this person holds, whatever the store."""
        file = self.home / "tokens.json"
        stores = json.loads(file.read_text()).values() if file.exists() else []
        return {scope: token for scopes in stores for scope, token in scopes.items()}


@pytest.fixture
def anne_and_will(flow):
    """Two people, and a flow that both can deploy."""

    def write(source=PLAIN):
        script = flow(source)
        return Person(script, "anne"), Person(script, "will")

    return write


@pytest.fixture(scope="module")
def first_deployment(tmp_path_factory):
    """A folder in which anne has deployed the plain flow, and the token."""
    anne = Person(Script(tmp_path_factory.mktemp("deployed"), PLAIN), "anne")
    return anne.script.folder, anne.deploy()


@pytest.fixture
def deployed(anne_and_will, first_deployment):
    """Anne, who has deployed the plain flow, will, and the token."""
    people = anne_and_will()
    folder, token = first_deployment
    shutil.copytree(folder, people[0].script.folder, dirs_exist_ok=True)
    return *people, token


@contextlib.contextmanager
def unchanged(script):
    """Not one byte of the store changes meanwhile."""
    before = script.db.read_bytes() if script.db.exists() else None
    yield
    assert (script.db.read_bytes() if script.db.exists() else None) == before


def tags_of(script, run_id):
    return set(script.sql("select tag from object_tags where kind = 'run' and run_id = ?", run_id))


def active(script):
    """The deployments in force, as the scheduler gets them."""
    flowstore.use_store(script.db)
    return deploy.deployments(db.open_store(script.db))


def one_message(result, *words):
    """What stderr says is one message, with these words in it."""
    assert len(re.findall(r"^Error: ", result.stderr, re.MULTILINE)) == 1
    for word in words:
        assert word in result.stderr
    return result.stderr


# --- who may deploy


def test_the_first_deployment_makes_a_token(anne_and_will):
    """It is told together with the namespace and how somebody else deploys, and kept for this user alone."""
    anne, _ = anne_and_will()
    told = anne("deploy", "create").stdout
    [token] = anne.tokens().values()
    assert re.fullmatch(r"f-1-[a-z0-9]{5}", token)
    assert anne.tokens() == {"flow:F": token}
    assert f'namespace("production:{token}")' in told
    assert f"deploy create --authorize {token}" in told
    assert (anne.home / "tokens.json").stat().st_mode & 0o777 == 0o600
    kept = sorted(path.name for path in anne.home.iterdir() if path.name.startswith("tokens"))
    assert kept == ["tokens.json", "tokens.lock"]
    [made] = active(anne.script)
    assert (made.flow, made.project, made.branch, made.token) == ("F", None, None, token)
    assert (made.version, made.deployed_by, made.schedule, made.tags) == (1, "anne", None, [])
    assert anne.script.sql("select count(*) from runs") == [0]


def test_the_same_person_deploys_a_new_version(deployed):
    """It has the next number and the same namespace; the newest version is what runs."""
    anne, _, token = deployed
    assert anne.deploy("--tag", "newer") == token
    [made] = active(anne.script)
    assert (made.version, made.tags) == (2, ["newer"])
    anne("deploy", "trigger")
    assert {"newer", f"production:{token}"} <= tags_of(anne.script, 1)


def test_somebody_else_is_refused(deployed):
    """The message says who deployed last and what is needed, not the token; nothing was changed."""
    anne, will, token = deployed
    for command in (("create",), ("create", "--generate-new-token"), ("delete",)):
        with unchanged(anne.script):
            said = one_message(will("deploy", *command, expect=1), "anne deployed last", "--authorize TOKEN")
        assert token not in said
    assert will.tokens() == {}


@pytest.mark.parametrize("command", ["create", "delete"])
def test_the_right_token_is_needed_once(deployed, command):
    """Who gave it deploys from then on without it; the first one still does, too."""
    anne, will, token = deployed
    will("deploy", command, "--authorize", token)
    assert will.tokens() == {"flow:F": token}
    assert will.deploy() == token
    assert anne.deploy() == token
    will("deploy", "trigger", expect=1)  # it is anne's code now
    assert [made.deployed_by for made in active(anne.script)] == ["anne"]


def test_the_last_one_to_deploy_is_named(anne_and_will):
    """Not the first one."""
    anne, will = anne_and_will()
    will.deploy("--authorize", anne.deploy())
    carol = Person(anne.script, "carol")
    one_message(carol.deploy(expect=1), "will deployed last")


@pytest.mark.parametrize("wrong", ["f-1-aaaaa", "ü", ""])
def test_a_wrong_token_is_refused(deployed, wrong):
    """Also where the right one is held; nothing was changed."""
    anne, will, _ = deployed
    for person in (anne, will):
        held = person.tokens()
        with unchanged(anne.script):
            one_message(person.deploy("--authorize", wrong, expect=1), "not its production token", "anne deployed last")
        assert person.tokens() == held


def test_a_token_for_what_was_never_deployed_is_refused(anne_and_will):
    """Who is told a token deploys elsewhere by mistake, where --store or --branch is missing; no store is made."""
    anne, _ = anne_and_will()
    one_message(anne.deploy("--authorize", "f-1-aaaaa", expect=1), "No store found")
    assert not anne.script.db.exists()
    anne("run")
    with unchanged(anne.script):
        one_message(anne.deploy("--authorize", "f-1-aaaaa", expect=1), "never deployed")


def test_tags_authorize_nothing(anne_and_will):
    """Runs that an import brought may be tagged like production; a deployment is no less the first one."""
    anne, _ = anne_and_will()
    anne("run", "--tag", "x")
    with contextlib.closing(sqlite3.connect(anne.script.db)) as connection, connection:
        connection.execute(
            "update tags set tag = 'production:f-1-abcde', json = '\"production:f-1-abcde\"' where tag = 'x'"
        )
    one_message(anne.deploy("--authorize", "f-1-abcde", expect=1), "never deployed")
    assert anne.deploy() != "f-1-abcde"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": {"b": 1}}', b"\xff", None])
def test_an_unreadable_token_file_is_one_clear_error(anne_and_will, content):
    """Nothing is changed, and no store is made."""
    anne, _ = anne_and_will()
    file = anne.home / "tokens.json"
    anne.home.mkdir()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    one_message(anne.deploy(expect=1), str(file), "Nothing was changed")
    assert not anne.script.db.exists()
    assert file.is_dir() or file.read_bytes() == (content if isinstance(content, bytes) else content.encode())


def test_what_needs_a_token_changes_nothing_where_the_file_is_damaged(deployed):
    """Each command tells the file; who gives the right token is not deployed for either, since it could not be kept."""
    anne, will, token = deployed
    will.home.mkdir()
    commands = (["create"], ["create", "--generate-new-token"], ["create", "--authorize", token], ["delete"])
    for person, command in zip((anne, anne, will, anne), commands, strict=True):
        file = person.home / "tokens.json"
        file.write_text("{")
        with unchanged(anne.script):
            one_message(person("deploy", *command, expect=1), str(file), "Nothing was changed")
        assert file.read_text() == "{"


FORBIDDEN = """
import os
from flowstore import FlowstoreError, tokens
if os.geteuid() == 0:  # which may read what nobody may
    os.setuid(65534)
try:
    tokens.find("store", "flow:F")
except FlowstoreError as error:
    print(error)
"""


def test_a_token_file_that_may_not_be_read_is_told(open_folder):
    """Not taken for one that is not there."""
    file = open_folder / "tokens.json"
    file.write_text("{}")
    file.chmod(0)
    environment = {**os.environ, "FLOWSTORE_HOME": str(open_folder)}
    done = subprocess.run([sys.executable, "-c", FORBIDDEN], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Your tokens {file} can't be read: Permission denied. Nothing was changed.\n"


def test_a_token_is_kept_only_if_the_deployment_is(tmp_path, monkeypatch):
    """A transaction that fails leaves the tokens file as it was."""
    monkeypatch.setenv("FLOWSTORE_HOME", str(tmp_path))
    with tokens.keeping() as mine:
        mine.prepare("store", "flow:F", "one")
    with contextlib.suppress(ZeroDivisionError), tokens.keeping() as mine:
        mine.prepare("store", "flow:F", "two")
        raise ZeroDivisionError
    assert tokens.find("store", "flow:F") == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokens.json", "tokens.lock"]


def test_a_token_that_cannot_be_kept_is_not_made(flow, monkeypatch):
    """A home that can't be written is told, and nothing changes."""
    script = flow(PLAIN)
    script("run")
    flowstore.use_store(script.db)
    asked = deploy.Asked(store=str(script.db))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deploy.snapshot, "take", lambda *_, **__: Sources(script="flow.py", files={"flow.py": b"pass"}))
    monkeypatch.setattr(tokens.drafts.os, "open", full)
    with unchanged(script), pytest.raises(FlowstoreError, match=r"tokens\.json can't be written: No space left"):
        deploy.create(type("F", (flowstore.FlowSpec,), {}), asked)
    assert script.sql("select count(*) from production_tokens") == [0]


def test_deploying_at_once(anne_and_will):
    """Four versions deployed at the same moment have one token, and numbers of their own."""
    anne, _ = anne_and_will()
    started = [anne.script.start("deploy", "create", **anne.environment) for _ in range(4)]
    for process in started:
        with process:
            process.communicate(timeout=60)
        assert process.returncode == 0
    assert sorted(anne.script.sql("select version from deployments")) == [1, 2, 3, 4]
    assert anne.script.sql("select token from production_tokens") == list(anne.tokens().values())
    assert [made.version for made in active(anne.script)] == [4]


def test_deploying_to_several_stores_at_once(tmp_path):
    """Each keeps its token in the one file that this user has for all of them."""
    folders = [tmp_path / str(number) for number in range(6)]
    for folder in folders:
        folder.mkdir()
    scripts = [Script(folder, PLAIN) for folder in folders]
    started = [script.start("deploy", "create") for script in scripts]
    for process in started:
        with process:
            process.communicate(timeout=60)
        assert process.returncode == 0
    kept = [scopes["flow:F"] for scopes in tokens.read().values()]
    assert sorted(kept) == sorted(script.sql("select token from production_tokens")[0] for script in scripts)


# --- a new token


def test_a_new_token_begins_an_empty_namespace(deployed):
    """The runs of two generations never mix; tokens that were stored before are refused."""
    anne, will, old = deployed
    will.deploy("--authorize", old)
    will("deploy", "trigger")
    new = anne.deploy("--generate-new-token")
    assert re.fullmatch(r"f-2-[a-z0-9]{5}", new)
    assert anne.tokens() == {"flow:F": new}
    assert "No run of F" in anne("deploy", "list-runs").stderr
    anne("deploy", "trigger")
    for token, run in ((old, "1"), (new, "2")):
        with flowstore.use_store(anne.script.db):
            flowstore.namespace(f"production:{token}")
            assert [found.id for found in flowstore.Flow("F")] == [run]
    said = one_message(will.deploy(expect=1), "no longer valid", "anne deployed last")
    assert new not in said
    one_message(will.deploy("--authorize", old, expect=1), "not its production token")
    assert will.deploy("--authorize", new) == new


def test_a_new_token_needs_the_old_one(deployed):
    """Given together, they begin a new namespace."""
    anne, will, old = deployed
    new = will.deploy("--generate-new-token", "--authorize", old)
    assert new != old
    assert will.tokens() == {"flow:F": new}
    anne.deploy(expect=1)


STARTS_SLOWLY = """
if "run" in sys.argv:
    Path(os.environ["HERE"], "begun").touch()
    while not Path(os.environ["HERE"], "go").exists():
        time.sleep(0.01)
"""


def test_a_run_that_is_starting_does_not_slip_into_another_generation(anne_and_will):
    """Where a new token is made meanwhile it is refused, in one message, and is in neither."""
    anne, _ = anne_and_will(flow_source(LINEAR, head=STARTS_SLOWLY))
    folder = anne.script.folder
    anne.deploy()
    process = anne.script.start("deploy", "trigger", HERE=str(folder), **anne.environment)
    wait_for((folder / "begun").exists)
    anne.deploy("--generate-new-token")
    (folder / "go").touch()
    _, stderr = process.communicate(timeout=60)
    told = "F was given a new production token while it was being started. Trigger it again."
    assert (process.returncode, stderr.decode()) == (1, f"Error: {told}\n")
    assert anne.script.sql("select count(*) from runs") == [0]


# --- projects


@pytest.fixture
def birds(tmp_path):
    """A training and a prediction flow of one project, both anne's, and what another person makes of them."""
    train = Script(tmp_path, project_source(TRAIN, "Train", MODEL="'good'"))
    train.file = tmp_path / "train.py"
    train.rewrite(project_source(TRAIN, "Train", MODEL="'good'"))
    predict = Script(tmp_path, "")
    predict.file = tmp_path / "predict.py"
    predict.rewrite(project_source(PREDICT, "Predict"))
    yield train, predict
    train.check()


def test_flows_of_a_project_share_a_token(birds):
    """In one branch; a new token moves them all, and lists them."""
    train, predict = (Person(script, "anne") for script in birds)
    token = train.deploy(before=["--production"])
    assert token.startswith("birds-1-")
    assert predict.deploy(before=["--production"]) == token
    other = predict.deploy(before=["--branch", "x"])
    assert other != token
    assert train.tokens() == {"project:birds/prod": token, "project:birds/test.x": other}
    told = train("--production", "deploy", "create", "--generate-new-token").stdout
    assert re.search(r"also moved:\n  Predict, version 1, deployed by anne\n", told)
    found = {(made.flow, made.branch): made.token for made in active(birds[0])}
    new = train.tokens()["project:birds/prod"]
    assert new != token
    assert found == {("Predict", "prod"): new, ("Train", "prod"): new, ("Predict", "test.x"): other}


def test_branches_are_named_as_in_runs(birds):
    """`user.NAME` by default, so that two people of a project deploy without each other's token."""
    anne, will = (Person(birds[0], name) for name in ("anne", "will"))
    for before in ([], ["--branch", "b"], ["--production"], ["--production", "--branch", "b"]):
        anne.deploy(before=before)
    will.deploy()
    assert [made.branch for made in active(birds[0])] == ["prod", "prod.b", "test.b", "user.anne", "user.will"]
    one_message(will("--production", "deploy", "create", expect=1), "anne deployed last", "birds/prod")
    one_message(Person(birds[0], "carol")("deploy", "show", expect=1), "birds/user.carol", "test.b", "--branch")


def test_a_prediction_flow_finds_the_model_in_production_only(birds):
    """That of the same project and branch; a plain run finds its user's own, in another branch there is none."""
    train, predict = (Person(script, "anne") for script in birds)
    for each in (train, predict):
        each.deploy(before=["--production"])
    train("--production", "deploy", "trigger", "--quiet")
    train.script.rewrite(project_source(TRAIN, "Train", MODEL="'experiment'"))
    train("run")
    predict("--production", "deploy", "trigger")
    predict("run")
    models = "select value from artifact_values where flow = 'Predict' and name = 'model' order by run_id"
    assert train.script.sql(models) == ['"good"', '"experiment"']
    predict.deploy(before=["--branch", "b"])
    failed = predict("--branch", "b", "deploy", "trigger", expect=1)
    assert "Train has no run in the active namespace" in failed.stdout
    carol = Person(predict.script, "carol")
    assert "Train has no run in the active namespace" in carol("run", expect=1).stdout


def test_a_plain_run_is_never_in_production(birds):
    """`run --production` stays in its user's namespace."""
    anne = Person(birds[0], "anne")
    anne.deploy(before=["--production"])
    anne("--production", "run")
    tags = tags_of(anne.script, 1)
    assert {"user:anne", "project:birds", "project_branch:prod"} <= tags
    assert not any(tag.startswith("production:") for tag in tags)


@pytest.mark.parametrize("name", ["A", "a b", "a.b", "a/b", "a-b", "é", "a\nb", "\udcff", "x" * 129])
def test_a_branch_has_a_plain_name(birds, name):
    """As in Metaflow: lower-case letters, digits and underscores; else nothing is run or deployed."""
    for command in (["run"], ["deploy", "create"]):
        one_message(birds[0]("--branch", name, *command, expect=1), "lower-case letters, digits and underscores")
    assert not birds[0].db.exists() or birds[0].sql("select count(*) from runs") == [0]


def test_branches_need_a_project(anne_and_will):
    """As they do with `run`; no store is made."""
    anne, _ = anne_and_will()
    one_message(anne("--production", "deploy", "create", expect=1), "@project")
    assert not anne.script.db.exists()


# --- whose the runs are


def test_a_production_run_is_nobodys(anne_and_will):
    """It is tagged production:TOKEN and not user:, sees that namespace, and says who deployed it."""
    anne, _ = anne_and_will(FACTS)
    token = anne.deploy("--tag", "nightly")
    anne("deploy", "trigger")
    tags = tags_of(anne.script, 1)
    assert {f"production:{token}", "nightly"} <= tags
    assert not any(tag.startswith("user:") for tag in tags)
    flowstore.namespace(f"production:{token}")
    run = anne.script.client(1)
    assert run.user == "anne"
    assert run["start"].task.data.facts == {
        "username": "anne",
        "namespace": f"production:{token}",
        "is_production": True,
        "project_name": None,
        "branch_name": None,
        "project_flow_name": None,
    }
    assert set(run["start"].task.data.tags) == tags
    flowstore.namespace("user:anne")
    with pytest.raises(flowstore.NamespaceMismatch, match=f'namespace\\("production:{token}"\\)'):
        anne.script.client(1)


@pytest.mark.parametrize(("before", "production"), [(["--production"], True), (["--branch", "b"], False)])
def test_the_project_of_a_production_run(flow, before, production):
    """Its tags and `current` name the branch; `is_production` is that of the branch, as in Metaflow."""
    source = FACTS.replace("class F(", '@project(name="birds")\nclass F(')
    anne = Person(flow(source), "anne")
    anne.deploy(before=before)
    anne(*before, "deploy", "trigger")
    branch = "prod" if production else "test.b"
    assert {"project:birds", f"project_branch:{branch}"} <= tags_of(anne.script, 1)
    [facts] = anne.script.sql("select value from artifact_values where name = 'facts'")
    facts = json.loads(facts)
    assert facts["project_flow_name"] == f"birds.{branch}.F"
    assert (facts["branch_name"], facts["is_production"]) == (branch, production)


@pytest.mark.parametrize(("asked", "seen"), [("xyz", "xyz"), ("", "None"), (None, "production:")])
def test_what_a_deployment_sees(anne_and_will, asked, seen):
    """`deploy create --namespace T` makes its runs see T; they are in their own namespace all the same."""
    anne, _ = anne_and_will()
    token = anne.deploy(*(() if asked is None else ("--namespace", asked)))
    assert f"sees {seen}" in anne("deploy", "trigger").stdout
    assert f"production:{token}" in tags_of(anne.script, 1)
    assert "sees mine" in anne("deploy", "trigger", "--namespace", "mine").stdout


def test_what_a_task_starts_is_not_in_production(anne_and_will):
    """A flow that a production run's task starts is its user's own."""
    other = "if 'again' not in os.environ: os.environ['again'] = ''; import subprocess; subprocess.run("
    anne, _ = anne_and_will(flow_source(LINEAR, start=f"{other}[sys.executable, sys.argv[0], 'run'], check=True)"))
    anne.deploy()
    anne("deploy", "trigger")
    assert "user:anne" not in tags_of(anne.script, 1)
    assert "user:anne" in tags_of(anne.script, 2)


def test_resuming_a_production_run(anne_and_will):
    """Anybody may; the result is in the resuming user's own namespace, without production's tags."""
    anne, will = anne_and_will(flow_source(LINEAR, end="assert Path('mended').exists()"))
    anne.deploy("--tag", "nightly")
    anne("deploy", "trigger", expect=1)
    (anne.script.folder / "mended").touch()
    will("resume", "--origin-run-id", "1")
    tags = tags_of(anne.script, 2)
    assert "user:will" in tags
    assert not {tag for tag in tags if tag.startswith("production:")} | (tags & {"nightly"})
    assert anne.script.sql("select origin_run_id, status from run_summary where run_id = 2") == [("1", "successful")]


# --- the snapshot


LAZY = flow_source(LINEAR, start="import beside; from pack.inner import y\nself.x = [beside.x, y]")


@pytest.mark.parametrize("what", ["changed", "moved", "deleted"])
def test_the_snapshot_runs(flow, what):
    """Whatever became of the flow's file, and of modules that only its steps import."""
    script = flow(LAZY)
    (script.folder / "beside.py").write_text("x = 1\n")
    (script.folder / "pack").mkdir()
    (script.folder / "pack" / "inner.py").write_text("y = 2\n")
    (script.folder / "pack" / "__init__.py").touch()
    anne = Person(script, "anne")
    anne.deploy()
    (script.folder / "beside.py").unlink()
    shutil.rmtree(script.folder / "pack")
    if what == "changed":
        script.rewrite(PLAIN)
    elif what == "moved":
        script.file = script.file.rename(script.folder / "elsewhere.py")
    if what != "deleted":
        anne("deploy", "trigger")
    else:
        script.file.unlink()
        code = (
            "from flowstore import *; from flowstore import deploy; from flowstore.store.locate import active_store\n"
        )
        code += "[made] = deploy.deployments(active_store()); raise SystemExit(deploy.trigger(active_store(), made))"
        environment = {**os.environ, **anne.environment}
        subprocess.run([sys.executable, "-c", code], check=True, cwd=script.folder, env=environment)
    flowstore.namespace(None)
    run = script.client(1)
    assert run["start"].task.data.x == [1, 2]
    assert run.code.flowspec == LAZY
    assert sorted(run.code.files) == ["beside.py", "flow.py", "pack/__init__.py", "pack/inner.py"]
    assert not list(script.folder.glob("**/flowstore-*"))


def test_show_says_what_is_deployed(flow):
    """Flow, version, who, when, namespace, schedule, parameters, and each file with its size."""
    script = flow(FACTS.replace("class F(", '@schedule(cron="30 6 * * *", timezone="Europe/Berlin")\nclass F('))
    for name in (".hidden", "env", "__pycache__", "site-packages", "data"):
        (script.folder / name).mkdir()
        (script.folder / name / "module.py").write_text("z\n")
    (script.folder / "env" / "pyvenv.cfg").touch()
    (script.folder / "data" / "table.csv").touch()
    (script.folder / "dangling.py").symlink_to("nowhere")
    anne = Person(script, "anne")
    token = anne.deploy("--tag", "nightly", "--with", "retry:times=2")
    shown = anne("deploy", "show").stdout
    for fact in (
        "F",
        "1",
        "anne",
        f"production:{token}",
        r"30 6 \* \* \* \(Europe/Berlin\)",
        "nightly",
        "retry:times=2",
    ):
        assert re.search(rf"  {fact}$", shown, re.MULTILINE), fact
    assert re.search(r"parameter alpha +0\.5$", shown, re.MULTILINE)
    files = dict(line.split() for line in shown[shown.index("file ") :].splitlines()[1:])
    assert files == {"flow.py": str(len(script.file.read_bytes())), "data/module.py": "2"}


def test_another_user_cannot_trigger(deployed):
    """A snapshot is code: who neither deployed it nor trusts the store is told the command that trusts."""
    anne, will, _ = deployed
    with unchanged(anne.script):
        one_message(will("deploy", "trigger", expect=1), "anne", f"flowstore trust {anne.script.db}")
    will.flowstore("trust", anne.script.db)
    will("deploy", "trigger")
    assert anne.script.sql("select user from run_summary") == ["anne"]


@pytest.mark.parametrize("how", ["another file", "another path", "another snapshot", "another script", "no key"])
def test_a_changed_snapshot_is_refused(anne_and_will, how):
    """What the deployer's key signed is the code itself, not the row that names it."""
    anne, _ = anne_and_will()
    (anne.script.folder / "beside.py").write_text("x = 1\n")
    anne.deploy()
    anne.script.rewrite(flow_source(LINEAR, start="Path('stolen').touch()"))
    anne("run")
    statements = {
        "another file": """update code_files set blob_id = (select blob_id from code_files where code_id = 2 and
            path = 'flow.py') where code_id = 1 and path = 'flow.py'""",
        "another path": "update code_files set path = 'json.py' where code_id = 1 and path = 'beside.py'",
        "another snapshot": "update deployments set code_id = 2",
        "another script": "update codes set script_name = 'beside.py' where id = 1",
        "no key": "select 1",
    }
    with contextlib.closing(sqlite3.connect(anne.script.db)) as connection, connection:
        connection.execute(statements[how])
    if how == "no key":
        (anne.home / "key").unlink()
    (anne.script.folder / "stolen").unlink()
    one_message(anne("deploy", "trigger", expect=1), "flowstore trust")
    assert not (anne.script.folder / "stolen").exists()


# --- parameters, schedule, decorators


DEFAULTS = """
count = Parameter("count", default=lambda: int(Path("count").read_text()), type=int)
fast = Parameter("fast", is_flag=True, default=True)
my_list = Parameter("my-list", default="a,b", separator=",")
options = Parameter("options", type=JSONType, default={"k": [1, None]})
text = IncludeFile("text", default="notes.txt")
nothing = Parameter("nothing")
"""


def test_defaults_are_those_at_deploy_time(flow):
    """Functions are called and files are read when it is deployed; a value given to trigger comes first."""
    script = flow(flow_source(LINEAR, members=DEFAULTS))
    (script.folder / "count").write_text("1")
    (script.folder / "notes.txt").write_text("hello " * 20_000)
    anne = Person(script, "anne")
    anne.deploy()
    (script.folder / "count").unlink()
    (script.folder / "notes.txt").unlink()
    anne("deploy", "trigger", FLOWSTORE_RUN_NOTHING="given")
    anne("deploy", "trigger", "--my_list", "c", "--count=7", FLOWSTORE_RUN_FAST="false")
    flowstore.namespace(None)
    first, second = (script.client(run).data for run in (1, 2))
    assert (first.count, first.fast, first.my_list, first.nothing) == (1, True, ["a", "b"], "given")
    assert (first.options, first.text) == ({"k": [1, None]}, "hello " * 20_000)
    assert (second.count, second.fast, second.my_list, second.nothing) == (7, False, ["c"], None)
    [made] = active(script)
    assert made.parameters["count"] == 1
    assert made.parameters["options"] == {"k": [1, None]}


def test_wrong_parameters_are_wrong_usage(anne_and_will):
    """Of the deployed flow, not of the file as it is now; nothing is run."""
    anne, _ = anne_and_will(flow_source(LINEAR, members="must = Parameter('must', required=True, type=int)"))
    anne.deploy()
    anne.script.rewrite(FACTS)
    for given, said in {
        ("--must", "x"): "'x' is not an int",
        ("--alpha", "1"): "'--alpha' is not a parameter of what is deployed; those are: --must",
        ("--must",): "needs a value",
        ("must",): "is not a parameter",
        (): "Missing option '--must'",
    }.items():
        told = anne("deploy", "trigger", *given, expect=2).stderr
        assert said in told
        assert "Usage: python flow.py " in told
    assert anne.script.sql("select count(*) from runs") == [0]
    anne("deploy", "trigger", "--must", "-1")
    assert anne.script.sql("select parameters from run_summary") == ['{"must": -1}']


@pytest.mark.parametrize(
    ("text", "cron"),
    [
        ("", "0 0 * * *"),
        ("hourly=True", "0 * * * *"),
        ("daily=True", "0 0 * * *"),
        ("weekly=True, timezone='Europe/Berlin'", "0 0 * * 0"),
        ("cron='5 4 * * *'", "5 4 * * *"),
    ],
)
def test_schedules(flow, text, cron):
    """The named ones are told as cron lines."""
    script = flow(PLAIN.replace("class F(", f"@schedule({text})\nclass F("))
    Person(script, "anne").deploy()
    zone = "Europe/Berlin" if "timezone" in text else None
    assert [made.schedule for made in active(script)] == [{"cron": cron, "timezone": zone}]


@pytest.mark.parametrize("text", ["cron='every day'", "cron='0 0 31 2 *'", "timezone='Mars/Olympus'", "daily=False"])
def test_a_wrong_schedule_is_refused(flow, text):
    """When it is deployed, rather than when it would fall due; no store is made."""
    script = flow(PLAIN.replace("class F(", f"@schedule({text})\nclass F("))
    one_message(Person(script, "anne").deploy(expect=2), "@schedule")
    assert not script.db.exists()


def test_a_schedule_gives_no_values(flow):
    """A parameter that is required and has no default can't be scheduled."""
    source = flow_source(LINEAR, members="must = Parameter('must', required=True)")
    script = flow(source.replace("class F(", "@schedule()\nclass F("))
    one_message(Person(script, "anne").deploy(expect=1), "must", "Give it a default")
    assert not script.db.exists()


def test_with_is_deployed(anne_and_will):
    """`--with` at deployment decorates the steps of every run."""
    anne, _ = anne_and_will(flow_source(LINEAR, start="if current.retry_count == 0: raise ValueError"))
    anne.deploy("--with", "retry:times=1,minutes_between_retries=0")
    anne("deploy", "trigger")
    assert anne.script.sql("select attempts from task_summary order by task_id") == [2, 1]
    one_message(anne.deploy("--with", "nonsense", expect=2), "nonsense")


@pytest.mark.parametrize("tag", ["user:will", "production:x", ""])
def test_bad_tags_are_refused_at_deployment(anne_and_will, tag):
    """Not when it runs; no store is made."""
    anne, _ = anne_and_will()
    one_message(anne.deploy("--tag", tag, expect=1), "tag")
    assert not anne.script.db.exists()


def test_a_flow_that_does_not_fit_together_is_refused(anne_and_will):
    """As `check` would; no store is made."""
    anne, _ = anne_and_will(flow_source({**LINEAR, "lost": ""}))
    one_message(anne.deploy(expect=1), "lost")
    assert not anne.script.db.exists()


# --- trigger, list-runs, delete


def test_list_runs(deployed):
    """Lists the runs of the production namespace, and no others."""
    anne, _, _ = deployed
    anne("run")
    anne("deploy", "trigger")
    anne("deploy", "trigger", "--quiet")
    listed = anne("deploy", "list-runs").stdout.splitlines()[1:]
    assert [line.split()[0] for line in listed] == ["F/3", "F/2"]


def test_a_deleted_deployment_is_gone(deployed):
    """Its runs stay; deployed again, it goes on in the same namespace, with the next version."""
    anne, _, token = deployed
    anne("deploy", "trigger")
    anne.deploy()
    assert f"production:{token}" in anne("deploy", "delete").stdout
    assert active(anne.script) == []
    with unchanged(anne.script):
        for command in ("trigger", "show", "list-runs", "delete"):
            one_message(anne("deploy", command, expect=1), "F is not deployed", "deploy create")
    assert f"production:{token}" in tags_of(anne.script, 1)
    assert anne.deploy() == token
    assert [made.version for made in active(anne.script)] == [3]
    assert "F/1" in anne("deploy", "list-runs").stdout


def test_after_a_delete_a_token_is_still_needed(deployed):
    """The namespace stays its owner's."""
    anne, will, _ = deployed
    anne("deploy", "delete")
    one_message(will.deploy(expect=1), "anne deployed last", "--authorize TOKEN")


def test_a_failed_run_is_exit_code_1(anne_and_will):
    """As with `run`."""
    anne, _ = anne_and_will(flow_source(LINEAR, start="raise ValueError('boom')"))
    anne.deploy()
    result = anne("deploy", "trigger", expect=1)
    assert "boom" in result.stdout
    assert "python flow.py resume --origin-run-id 1" in result.stderr


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping(anne_and_will, how, code):
    """A signal is passed on; the run is marked as stopped."""
    anne, _ = anne_and_will(flow_source(MIDDLE, middle="Path('begun').touch(); time.sleep(60)"))
    anne.deploy()
    process = anne.script.start("deploy", "trigger", **anne.environment)
    wait_for((anne.script.folder / "begun").exists)
    result = stop(process, how)
    assert result.code == code, result.stderr
    assert anne.script.sql("select status from run_summary") == ["stopped"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is noticed a second later")
def test_a_run_dies_with_who_triggered_it(anne_and_will):
    """What runs in the foreground doesn't go on behind one's back."""
    anne, _ = anne_and_will(flow_source(MIDDLE, middle="Path('begun').touch(); time.sleep(60)"))
    anne.deploy()
    process = anne.script.start("deploy", "trigger", TMPDIR=str(anne.script.folder), **anne.environment)
    wait_for((anne.script.folder / "begun").exists)
    stop(process, signal.SIGKILL)
    flowstore.namespace(None)
    wait_for(lambda: anne.script.client(1).status == "dead")


@pytest.mark.parametrize("name", ["step-functions", "argo-workflows"])
@pytest.mark.parametrize("given", [(), ("create",), ("create", "--authorize", "x", "--help"), ("--nonsense", "-x")])
def test_commands_of_others_name_deploy(flow, name, given):
    """Whatever their arguments: exit code 2."""
    script = flow(PLAIN)
    assert "deploy create" in one_message(script(name, *given, expect=2))
    assert not script.db.exists()


# --- older stores


def test_an_older_store_is_migrated_at_the_first_deployment(anne_and_will, monkeypatch):
    """Until then it is read as it is, and nothing is deployed there."""
    anne, _ = anne_and_will()
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        older.setattr(schema, "SCHEMA_VERSION", 1)
        db.ensure_store(anne.script.db).close()
    assert anne.script.sql("pragma user_version") == [1]
    with unchanged(anne.script):
        assert active(anne.script) == []
        for command in ("show", "trigger"):
            one_message(anne("deploy", command, expect=1), "not deployed")
    token = anne.deploy()
    assert anne.script.sql("pragma user_version") == [schema.SCHEMA_VERSION]
    anne("deploy", "trigger")
    assert f"production:{token}" in tags_of(anne.script, 1)
