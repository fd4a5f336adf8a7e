"""Who runs the tasks of a job: the `Executor` protocol, its implementations, and the options that choose one.

Ray is imported when it is asked for, not before.
"""

from rgals.execution.executor import Block, BlockResult, Executor, Prepare, TaskFunction, WorkerContext
from rgals.execution.in_process import InProcessExecutor
from rgals.execution.options import ExecutorOptions, open_executor
from rgals.execution.status import Authentication, ClusterStatus, NodeStatus

__all__ = [
    "Authentication",
    "Block",
    "BlockResult",
    "ClusterStatus",
    "Executor",
    "ExecutorOptions",
    "InProcessExecutor",
    "NodeStatus",
    "Prepare",
    "TaskFunction",
    "WorkerContext",
    "open_executor",
]
