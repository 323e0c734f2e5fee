#: run
#: --config config other.json run
#: --config-value config '{"title":"given","retries":1,"env":{"A":"z"}}' run
#: --config config missing.json run
#: --config-value config {bad run
import os

from metaflow import Config, FlowSpec, Parameter, config_expr, environment, retry, step


class ConfiguredFlow(FlowSpec):
    """A configuration in a decorator, in a default and in steps."""

    config = Config("config", default_value={"title": "default", "retries": 0, "env": {"A": "x"}})
    name_ = Parameter("name", default=config.title)

    @environment(vars={"A": config.env.A})
    @retry(times=config_expr("config.retries"), minutes_between_retries=0)
    @step
    def start(self):
        self.seen = os.environ["A"]
        self.plain = dict(self.config.env), self.config["title"], self.config.get("nothing", 5)
        self.next(self.end)

    @step
    def end(self):
        print(self.name_, self.seen, self.config.retries)


if __name__ == "__main__":
    ConfiguredFlow()
