#: run --needed 2
#: run --needed 2 --alpha 0.6 --name will --flag true --number -7
#: run --needed 3 --gdp '{"US": 1, "list": [1, null]}' --words a,b,c --switch
#: METAFLOW_RUN_ALPHA=0.9 METAFLOW_RUN_NEEDED=5 METAFLOW_RUN_WORDS=x,y run
#: run --needed many
#: run --needed 2 --alpha text
#: run --needed 2 --gdp {
#: run --unknown 1
#: run --needed 2 --under_score 4
#: run --help
from metaflow import FlowSpec, IncludeFile, JSONType, Parameter, current, step


def from_context(context):
    return "%s of %s" % (context.parameter_name, context.flow_name)


class ParameterFlow(FlowSpec):
    """Parameters of each type, from options, variables and defaults."""

    alpha = Parameter("alpha", help="Learning rate", default=0.01)
    needed = Parameter("needed", required=True, type=int)
    name_ = Parameter("name", default="anne", help="somebody")
    flag = Parameter("flag", default=False, type=bool)
    switch = Parameter("switch", default=False, is_flag=True, type=bool)
    gdp = Parameter("gdp", type=JSONType, default='{"US": 1939}')
    words = Parameter("words", separator=",", default="one,two")
    number = Parameter("number", default=0)
    nothing = Parameter("nothing", type=int)
    under_score = Parameter("under_score", default=1)
    computed = Parameter("computed", default=from_context)
    file = IncludeFile("file", default="parameters.txt", is_text=True)

    @step
    def start(self):
        print("alpha is %f" % self.alpha)
        print(sorted(current.parameter_names))
        try:
            self.alpha = 5
        except AttributeError:
            print("cannot be set")
        self.next(self.end)

    @step
    def end(self):
        print("alpha is still %f" % self.alpha)


if __name__ == "__main__":
    ParameterFlow()
