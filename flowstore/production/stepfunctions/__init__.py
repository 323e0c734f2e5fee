"""Flows that AWS Step Functions starts and watches, while they run beside their store.

A flow in AWS is a state machine, whose states wait for callbacks. What it asks for travels through a queue (SQS), which
belongs to the store; `production.worker` takes it from there, runs the deployment, and answers. AWS sees ids, states
and the first line of an error, but no artifact, no log and no production token.

Two states are enough for a run, however many tasks it has:

    Queued --accepted--> Run --answered--> the end
      ^                   |
      +---- a heartbeat was missed, or the worker stopped

- `Queued` has no heartbeat: it may wait for days until a worker runs, and costs nothing meanwhile. A worker with room
  for a run accepts, which leads to `Run`.
- `Run` has a heartbeat. If the worker dies, AWS misses it and goes back to `Queued`; whoever accepts next finds the run
  of that execution in the store, and resumes it.

Messages of the queue are in `messages`, state machines in `definition`, calls of AWS in `aws`; `creation` puts a flow
into AWS, `commands` are the commands about one that is there, and a `job` is an execution that a worker has accepted.
"""
