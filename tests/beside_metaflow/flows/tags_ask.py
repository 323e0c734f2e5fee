from metaflow import Flow, Run, default_namespace, get_namespace, namespace
from metaflow.exception import MetaflowException, MetaflowNamespaceMismatch, MetaflowNotFound


def attempt(call):
    """Return the result of a call, or the kind of its error."""
    try:
        return call()
    except (MetaflowNotFound, MetaflowNamespaceMismatch) as error:
        return type(error).__name__.replace("Metaflow", "")
    except MetaflowException:
        return "refused"
    except (TypeError, ValueError, KeyError) as error:
        return "an error"


print(get_namespace(), namespace("user:tester"))
runs = list(Flow("TagFlow").runs("crazy_test"))
print(len(runs), len(list(Flow("TagFlow"))))
run = runs[0]
hers = namespace(None) or next(iter(Flow("TagFlow").runs("hers")))
namespace("user:tester")
print(attempt(lambda: Run(hers.pathspec)), attempt(lambda: Run("TagFlow/77777")), attempt(lambda: Flow("NoFlow")))
print(default_namespace())
for change in (
    lambda: run.add_tag("one_tag"),
    lambda: run.add_tags(["another_tag", "yet_another", "one_tag"]),
    lambda: run.remove_tag("one_tag"),
    lambda: run.remove_tags(["another_tag", "not there"]),
    lambda: run.replace_tag("yet_another", "better_tag"),
    lambda: run.replace_tags(["better_tag", "crazy_test"], ["best_tag", "finest"]),
    lambda: run.add_tag(["listed", "twice"]),
    lambda: run.add_tags("text"),
    lambda: run.remove_tag(["listed", "twice"]),
    lambda: run.replace_tags([], []),
    lambda: run.replace_tags([], ["x"]),
    lambda: run.add_tag(""),
    lambda: run.add_tags([]),
    lambda: run.add_tag(next(iter(run.system_tags))),
    lambda: run.remove_tag("user:tester"),
    lambda: run.add_tag(5),
    lambda: run.add_tag("x" * 501),
):
    print(attempt(change), sorted(tag for tag in run.user_tags))
print(type(run.tags).__name__, run.tags == run.user_tags | run.system_tags)
print(sorted(run["end"].task.user_tags), run["end"].task.is_in_namespace(), run.is_in_namespace())
print([len(list(run.steps(tag))) for tag in ("finest", "nothing")], len(list(run["end"].tasks("finest"))))
print("start" in run, "nothing" in run, "inside" in run["start"].task, len(run["start"].task.artifacts.inside.data))
print(str(run) == repr(run), repr(run).startswith("Run('TagFlow/"))
